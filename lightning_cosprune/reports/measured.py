"""From the metrics of a run to the networks that its page compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_cosprune.reports.energy import energy_of_inferences
from lightning_cosprune.reports.record import THIS_RUN, Outcome, Phase
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["LABELS", "Measured", "accuracy_key", "grouped", "note_of_inferences", "outcomes_of"]

LABELS = {"dense": "dense", "cut": "as cut", "repaired": "repaired", "tuned": "after the fit"}
"""Role of a network in a run -> what it is called."""


class Measured:
    """Metrics by role of the network and by stage, ``"val"`` or ``"test"``.

    Attributes:
        latency: Seconds of a forward pass, of the dense and of the pruned network.
    """

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, str], dict[str, float]] = {}
        self.latency: list[float] = []

    def note(self, role: str, stage: str, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a stage; those of a second prune's dense network are not the dense network's."""
        if accuracy_key(metrics, stage) is None or (role == "dense" and ("cut", stage) in self._metrics):
            return
        self._metrics[role, stage] = dict(metrics)

    def metrics(self, role: str, stage: str) -> Mapping[str, float]:
        """What was kept, maybe nothing."""
        return self._metrics.get((role, stage), {})

    def stage(self) -> str:
        """The stage in which most of the networks were measured."""
        known = {stage: sum(key[1] == stage for key in self._metrics) for stage in ("test", "val")}
        return max(known, key=lambda stage: known[stage])


def accuracy_key(metrics: Mapping[str, float], stage: str) -> str | None:
    """The name under which a module logs its accuracy in ``stage``: the shortest that says so.

    Returns:
        Such as ``"val/accuracy"`` or ``"val_acc"``; ``None`` where there is none.
    """
    names = [name for name in metrics if name.lower().startswith(stage) and "acc" in name.lower()]
    return min(names, key=len, default=None)


def grouped(metrics: Mapping[str, float], stage: str, kind: str) -> dict[str, float]:
    """Accuracies by ``kind``, ``"scene"`` or ``"device"``, as :class:`SceneClassifier` logs them."""
    key = accuracy_key(metrics, stage)
    prefix = f"{key}_{kind}_"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if key and name.startswith(prefix)}


def note_of_inferences(latency: Sequence[float], phases: Sequence[Phase]) -> list[str]:
    """What a million forward passes use, at the mean power of the run; empty where that is not known."""
    seconds, kwh = sum(phase.seconds for phase in phases), sum(phase.kwh or 0.0 for phase in phases)
    if len(latency) < 2 or not seconds or not kwh:
        return []
    watts = 3.6e6 * kwh / seconds
    dense, pruned = (1e3 * energy_of_inferences(one, watts) for one in latency[:2])
    return [
        f"A million forward passes take {pruned:,.3g} Wh instead of {dense:,.3g} Wh, from the measured time of a pass "
        f"and {watts:,.3g} W, the mean power while the energy was counted."
    ]


def outcomes_of(measured: Measured, reports: Sequence[PruningReport]) -> tuple[tuple[Outcome, ...], list[str]]:
    """The networks of a run, the dense one first, and what has to be said of their numbers.

    Args:
        measured: Their metrics.
        reports: Of the prunes, in the order of time.

    Returns:
        One network for each role that was measured, and the dense and the last one in any case.
    """
    if not reports:
        return (), []
    stage = measured.stage()
    found = []
    for role, label in LABELS.items():
        metrics = measured.metrics(role, stage)
        if not metrics and role in ("cut", "repaired"):
            continue
        costs = reports[0].before if role == "dense" else reports[-1].after
        key = accuracy_key(metrics, stage)
        latency = measured.latency[:1] if role == "dense" else measured.latency[1:]
        found.append(
            Outcome(
                label,
                role,
                (metrics[key],) if key else (),
                tuple(metrics[name] for name in (f"{stage}/log_loss",) if name in metrics),
                (float(costs.macs),),
                (float(costs.params),),
                (float(costs.bytes),),
                latency=tuple(latency),
                series=THIS_RUN,
                by_scene=grouped(metrics, stage, "scene"),
                by_device=grouped(metrics, stage, "device"),
            )
        )
    notes = []
    if any(outcome.accuracy for outcome in found):
        notes.append(f"Accuracies are those of the {'test' if stage == 'test' else 'validation'} clips of this run.")
    tested = accuracy_key(measured.metrics("tuned", "test"), "test")
    if stage == "val" and tested:
        notes.append(f"On the test clips the network ended at {measured.metrics('tuned', 'test')[tested]:.1%}.")
    if len(reports) > 1:
        notes.append("The network was pruned in steps: as cut and repaired are those of the last step.")
    return tuple(found), notes
