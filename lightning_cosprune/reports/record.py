"""What is known of a run, as one value: the page, the tables and the loggers are drawn from nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lightning_cosprune.arguments import all_of, check_kind, one_of, read_json, real_number, real_numbers
from lightning_cosprune.repair.report import RepairReport
from lightning_cosprune.reports.plain import from_plain, to_plain
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["Event", "LayerPicture", "Outcome", "Pair", "Phase", "PruneRecord", "RunRecord", "THIS_RUN", "Width"]

THIS_RUN = "this run"
"""Series of the networks of a run that is told of alone; its accuracies are points of its learning curve too."""


@dataclass(frozen=True)
class Outcome:
    """One network as it was measured: dense, as cut, repaired, fine-tuned, or a rival.

    Attributes:
        label: Its name, as people read it.
        role: ``"dense"``, ``"cut"``, ``"repaired"``, ``"tuned"`` or ``"rival"``; the first four are what a headline is
            made of.
        accuracy: One number in [0, 1] a seed; empty where it is not known.
        log_loss: Mean cross-entropy, likewise.
        macs: Multiply-accumulates, one number a seed or one for all.
        params: Stored numbers, likewise.
        bytes: Their memory, likewise.
        seconds: What training took, likewise; empty where it is not known.
        latency: Seconds of one forward pass, likewise.
        fraction: Share of the training data that it was trained on after the cut.
        series: Networks of one series are joined by a line, such as those of one criterion.
        by_scene: Scene -> mean accuracy.
        by_device: Recording device -> mean accuracy.
        ratios: Layer -> part of its filters that it lost, a mean likewise.
        kwh: Energy of the run that made it, one number a seed.

    Raises:
        TypeError: A value is of another type.
        ValueError: The role is unknown, or a number is out of range.
    """

    label: str
    role: str = "rival"
    accuracy: tuple[float, ...] = ()
    log_loss: tuple[float, ...] = ()
    macs: tuple[float, ...] = ()
    params: tuple[float, ...] = ()
    bytes: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    latency: tuple[float, ...] = ()
    fraction: float | None = None
    series: str = ""
    by_scene: Mapping[str, float] = field(default_factory=dict)
    by_device: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    kwh: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("label", "series"):
            check_kind(getattr(self, name), str, f"`Outcome({name}=...)`", "Write a string.")
        one_of(self.role, "`Outcome(role={})`", ("dense", "cut", "repaired", "tuned", "rival"))
        for name in ("accuracy", "log_loss", "macs", "params", "bytes", "seconds", "latency", "kwh"):
            told = real_numbers(getattr(self, name), f"`Outcome({name}={{}})`", "a number a seed, such as (0.81, 0.79)")
            object.__setattr__(self, name, told)
        if self.fraction is not None:
            real_number(self.fraction, "`Outcome(fraction={})`", "a fraction from 0 to 1, or None", least=0, most=1)
        for name in ("by_scene", "by_device", "ratios"):
            told = getattr(self, name)
            check_kind(told, Mapping, f"`Outcome({name}=...)`", "Write a dict, such as {'bus': 0.8}.")
            for key, value in told.items():
                real_number(value, f"`Outcome({name}={{{{{key!r:.40}: {{}}}}}})`", "a number, such as an accuracy")


@dataclass(frozen=True)
class Pair:
    """A removed filter and the kept one that stands for it.

    Attributes:
        removed: Number of the removed filter.
        partner: Number of the kept filter that is most similar to it.
        cosine: Their similarity.
        by_weights: Squared cosine of all their weights: what part of the removed filter a multiple of the other is.
        removed_taps: Its picture, row by row.
        partner_taps: That of the partner.
        shape: Rows and columns of the pictures.
    """

    removed: int
    partner: int
    cosine: float
    by_weights: float
    removed_taps: tuple[float, ...]
    partner_taps: tuple[float, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LayerPicture:
    """The filters of one layer before the cut, small enough to be drawn for 2,048 of them.

    Attributes:
        name: The layer.
        filters: How many it had.
        kernel: Extent of its filters.
        order: Numbers of the filters along the heat-map, those that are alike beside each other.
        tree: Joints of the dendrogram: left and right place, left and right height, height of the joint; places are
            counted along ``order``, heights are 1 minus the mean similarity.
        cells: How many cells each side of the heat-map has.
        similarity: The cells, row by row: mean cosine of the filters in them, times 127, as signed bytes in base64.
        explained: For each removed filter, in ascending order, the squared cosine to its partner: what part of its
            vector a multiple of the partner's is; 0 where the cosine is negative.
        by_weights: The same of all weights of the two.
        together: The squared multiple correlation of its vector with those of all kept filters.
        pairs: Some of the removed filters beside their partners, from the best explained to the least.
    """

    name: str
    filters: int
    kernel: tuple[int, ...]
    order: tuple[int, ...]
    tree: tuple[tuple[float, ...], ...]
    cells: int
    similarity: str
    explained: tuple[float, ...]
    by_weights: tuple[float, ...]
    together: tuple[float, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Width:
    """How many filters a layer had and has; layers of one ``group`` lose the same filters."""

    name: str
    before: int
    after: int
    group: int | None = None


@dataclass(frozen=True)
class PruneRecord:
    """One prune: what it removed, what repair did about it, and how the layers looked before it."""

    report: PruningReport
    repair: RepairReport | None = None
    layers: tuple[LayerPicture, ...] = ()
    widths: tuple[Width, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened at the start of an epoch, such as a prune."""

    epoch: float
    name: str


@dataclass(frozen=True)
class Phase:
    """Seconds, energy in kWh and emissions in kg of CO2-equivalents of one part of the work."""

    name: str
    seconds: float
    kwh: float | None = None
    kg: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """All that is known of a run.

    Attributes:
        title: What the page is called.
        setting: What was run, name -> value: network, criterion, data, machine.
        outcomes: The networks that were measured, the dense one first.
        prunes: The prunes, in the order of time.
        curves: Name of a metric -> (epoch, value), epochs counted from the start and fractional within.
        events: Prunes and repairs, for the curves.
        phases: Where the time and the energy went.
        energy_source: How energy was found, such as "estimated from the processor's rated power".
        tables: Further tables, heading -> rows of cells, the first of which is the header.
        notes: Sentences that belong on the page.

    Raises:
        TypeError: A value is of another type.
    """

    title: str = "Filter pruning"
    setting: Mapping[str, str] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = ()
    prunes: tuple[PruneRecord, ...] = ()
    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    phases: tuple[Phase, ...] = ()
    energy_source: str = ""
    tables: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("title", "energy_source"):
            check_kind(getattr(self, name), str, f"`RunRecord({name}=...)`", "Write a string.")
        kinds = {"outcomes": Outcome, "prunes": PruneRecord, "events": Event, "phases": Phase, "notes": str}
        for name, kind in kinds.items():
            all_of(getattr(self, name), kind, f"`RunRecord({name}={{}})`")
        for name in ("setting", "curves", "tables"):
            check_kind(getattr(self, name), Mapping, f"`RunRecord({name}=...)`", "Write a dict.")
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for name in ("outcomes", "prunes", "events", "phases", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def of(
        cls,
        reports: Sequence[PruningReport],
        repairs: Sequence[RepairReport] = (),
        outcomes: Sequence[Outcome] = (),
        **others: Any,
    ) -> RunRecord:
        """A record of prunes that were made without a Trainer.

        Args:
            reports: Of each prune.
            repairs: Of each prune that removed something, or none at all.
            outcomes: Networks that were measured.
            **others: Further fields.

        Returns:
            The record; a page of it has everything but the pictures of filters.

        Raises:
            TypeError: There are other things than reports, repairs and outcomes among them, or no field is called so.
            ValueError: There are repairs, but not one for each prune.
        """
        all_of(reports, PruningReport, "`RunRecord.of(reports={})`")
        all_of(repairs, RepairReport, "`RunRecord.of(repairs={})`")
        all_of(outcomes, Outcome, "`RunRecord.of(outcomes={})`")
        cut = [report for report in reports if report.layers]
        if repairs and len(repairs) != len(cut):
            raise ValueError(
                f"`RunRecord.of(repairs=...)`: expected none, or one for each of the {len(cut)} reports that removed "
                f"something, found {len(repairs)}."
            )
        of_each = iter(repairs)
        prunes = [PruneRecord(report, next(of_each, None) if report.layers else None) for report in reports]
        return cls(prunes=tuple(prunes), outcomes=tuple(outcomes), **others)

    def to_dict(self) -> dict[str, Any]:
        """The record in plain dicts, lists, strings and numbers.

        Returns:
            What :meth:`from_dict` reads.
        """
        return {"version": 1, **to_plain(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> RunRecord:
        """Read what :meth:`to_dict` wrote.

        Raises:
            TypeError: It is no mapping.
            ValueError: It is no record, or one of a version that this release does not know.

        Returns:
            An equal record.
        """
        check_kind(record, Mapping, "`RunRecord.from_dict(record=...)`", "`RunRecord.to_dict` makes one.")
        if record.get("version") != 1:
            raise ValueError(
                "`RunRecord.from_dict(record=...)`: expected the key version (1) among those of a record, found "
                f"{sorted(map(str, record))!r:.200}. Write records with `RunRecord.to_dict` or `RunRecord.to_json`."
            )
        found: RunRecord = from_plain(cls, {key: value for key, value in record.items() if key != "version"})
        return found

    def to_json(self) -> str:
        """The record as JSON text.

        Returns:
            What :meth:`from_json` reads.
        """
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read what :meth:`to_json` wrote.

        Raises:
            TypeError: It is no text.
            ValueError: It is no record, or one of a version that this release does not know.

        Returns:
            An equal record.
        """
        return cls.from_dict(read_json(text, "`RunRecord.from_json(text={})`", "`RunRecord.to_json` makes one."))
