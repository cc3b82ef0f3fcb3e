"""Energy and emissions by phase: dense training, ranking, surgery, repair, fine-tuning, evaluation."""

from __future__ import annotations

import importlib
import logging
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_cosprune.arguments import real_number
from lightning_cosprune.reports.clock import PHASES, Clock
from lightning_cosprune.reports.record import Phase
from lightning_cosprune.reports.telling import telling

__all__ = ["KG_PER_MILE", "EnergyMonitor", "car_miles", "emissions_of", "energy_of_inferences"]

KG_PER_MILE = 0.398
"""Kilograms of CO2 that an average passenger car emits a mile, as the case study of Singh and Plumbley counts them."""


def emissions_of(watts: float, hours: float, kg_per_kwh: float) -> float:
    """Kilograms of CO2-equivalents of a machine that draws so much for so long.

    Args:
        watts: Its mean power.
        hours: How long.
        kg_per_kwh: Carbon intensity of its electricity.

    Raises:
        ValueError: A number is negative or not finite.

    Returns:
        ``watts / 1000 * hours * kg_per_kwh``.

    Example:
        The case study's 48 hours of an RTX 2080 Ti of 250 W, at 0.432 kg/kWh:

        >>> round(emissions_of(250, 48, 0.432), 2)
        5.18
    """
    watts, hours, kg_per_kwh = (
        _amount(f"`emissions_of({name}={{}})`", value)
        for name, value in (("watts", watts), ("hours", hours), ("kg_per_kwh", kg_per_kwh))
    )
    return watts / 1000 * hours * kg_per_kwh


def car_miles(kg: float) -> float:
    """How far an average passenger car comes on the same emissions, in miles.

    Args:
        kg: Kilograms of CO2-equivalents.

    Raises:
        ValueError: It is negative or not finite.

    Returns:
        ``kg / 0.398``.

    Source: the factor of the US Environmental Protection Agency, as the case study uses it.

    Example:
        >>> round(car_miles(emissions_of(250, 48, 0.432)))
        13
    """
    return _amount("`car_miles(kg={})`", kg) / KG_PER_MILE


def energy_of_inferences(seconds: float, watts: float, count: float = 1e6) -> float:
    """Energy in kWh of so many forward passes.

    Args:
        seconds: Measured time of one.
        watts: Power meanwhile.
        count: How many.

    Raises:
        ValueError: A number is negative or not finite.

    Returns:
        ``seconds * watts * count / 3.6e6``.

    Example:
        >>> round(energy_of_inferences(0.004, 50), 3)
        0.056
    """
    seconds, watts, count = (
        _amount(f"`energy_of_inferences({name}={{}})`", value)
        for name, value in (("seconds", seconds), ("watts", watts), ("count", count))
    )
    return seconds * watts * count / 3.6e6


def _amount(subject: str, value: float) -> float:
    return real_number(value, subject, "a finite number of at least 0", least=0, finite=True)


class EnergyMonitor(Callback):
    """Count the energy and the emissions of a run, phase by phase, offline.

    Beside :class:`~lightning_cosprune.CosineFilterPruning` the phases are dense training, ranking, surgery, repair,
    fine-tuning, evaluation and reporting; without it, training counts as dense. They go to the loggers as
    ``energy/kwh``, ``energy/kg_co2``, ``energy/<phase>/kwh`` and ``energy/<phase>/seconds``, to the console and onto
    the report page. In a run on several processes each that is the first of its machine counts that whole machine.

    Energy is read by codecarbon's offline tracker: from counters of the processor (RAPL) and of NVIDIA GPUs where there
    are any, and else from rated power and load; :attr:`source` says which. It never is the energy of this process
    alone, unless nothing else runs on the machine.

    Args:
        country: ISO code of three letters of the country whose electricity is used, such as ``"GBR"``. It is asked for
            because it decides the emissions.
        region: State or province, where codecarbon knows it, such as ``"california"``.
        every: Seconds between two readings.

    Attributes:
        phases: What was counted so far, one :class:`~lightning_cosprune.reports.record.Phase` each.
        source: How the energy was found: "measured" or "estimated", and by what.

    Raises:
        ValueError: The country is not one of codecarbon's table, or ``every`` is not positive.
        ModuleNotFoundError: The extra ``energy`` is not installed.

    Example:
        >>> EnergyMonitor(country="GBR")
        EnergyMonitor(country='GBR')
    """

    def __init__(self, country: str, *, region: str | None = None, every: float = 15.0) -> None:
        _import_codecarbon()
        expected = "seconds above 0; 15 where it is left out"
        every = real_number(every, "`EnergyMonitor(every={})`", expected, above=0, finite=True)
        if region is not None and not isinstance(region, str):
            raise TypeError(
                f"`EnergyMonitor(region={region!r:.60})`: expected the name of a region, such as 'california', or "
                f"None, found a {type(region).__name__}. Write a string."
            )
        known = importlib.import_module("codecarbon.input").DataSource().get_global_energy_mix_data()
        if not isinstance(country, str) or country not in known:
            raise ValueError(
                f"`EnergyMonitor(country={country!r})`: expected an ISO code of three letters that codecarbon has the "
                'electricity of, such as "GBR", "DEU" or "USA". Write one of these.'
            )
        self.country = country
        self.region = region
        self.every = every
        self.phases: tuple[Phase, ...] = ()
        self.source = ""
        self._clock = Clock()
        self._tracker: Any = None
        self._reader: Any = None
        self._energy: dict[str, tuple[float, float]] = {}
        self._logged: tuple[Phase, ...] = ()

    def __repr__(self) -> str:
        return f"EnergyMonitor(country={self.country!r})"

    @property
    def kwh(self) -> float:
        """Energy of all phases so far."""
        return sum(phase.kwh or 0.0 for phase in self.phases)

    @property
    def kg(self) -> float:
        """Emissions of all phases so far, in kilograms of CO2-equivalents."""
        return sum(phase.kg or 0.0 for phase in self.phases)

    @property
    def running(self) -> bool:
        """Whether something is being counted."""
        return self._tracker is not None

    # When

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Begin to count on the first process of the machine; a new fit starts from nothing."""
        if trainer.local_rank != 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if stage == "fit":
            self._energy, self._clock = {}, Clock()
        self._start()
        self.enter("dense training" if stage == "fit" else "evaluation")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count the evaluation apart."""
        self._back = self.enter("evaluation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Go on with what was going on."""
        self.enter(self._back)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Tell the loggers and the console."""
        self._tell(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Tell the loggers and the console."""
        self._tell(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Stop counting."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Stop counting."""
        self._stop()

    # What

    def enter(self, phase: str | None) -> str | None:
        """Count what follows as ``phase``.

        Returns:
            The phase that ended.
        """
        if self._tracker is None:
            return None
        self._tracker.flush()
        self._take(self._clock.phase)
        before = self._clock.enter(phase)
        self._sum_up()
        return before

    def _start(self) -> None:
        if self._tracker is not None:
            return
        codecarbon = _import_codecarbon()
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before it reads its own setting
        outputs = importlib.import_module("codecarbon.output_methods.base_output")

        class Reader(outputs.BaseOutput):  # type: ignore[misc, name-defined]
            """Keeps the latest totals, in kWh and kg."""

            totals = (0.0, 0.0)

            def out(self, total: Any, delta: Any) -> None:  # noqa: ARG002
                self.totals = (float(total.energy_consumed), float(total.emissions))

            def live_out(self, total: Any, delta: Any) -> None:
                self.out(total, delta)

        self._reader = Reader()
        self._taken = (0.0, 0.0)
        tracker = codecarbon.OfflineEmissionsTracker(
            country_iso_code=self.country,
            region=self.region,
            measure_power_secs=self.every,
            output_methods=[],
            output_handlers=[self._reader],
            allow_multiple_runs=True,
            log_level=logging.CRITICAL,
        )
        tracker.start()
        self.source = _describe(tracker)
        self._tracker = tracker

    def _take(self, phase: str | None) -> None:
        """Give ``phase`` what was used since the last reading."""
        now = self._reader.totals
        if phase is not None:
            kwh, kg = self._energy.get(phase, (0.0, 0.0))
            self._energy[phase] = (kwh + now[0] - self._taken[0], kg + now[1] - self._taken[1])
            self._taken = now

    def _sum_up(self) -> None:
        names = sorted(self._clock.seconds, key=PHASES.index)
        self.phases = tuple(
            Phase(name, self._clock.seconds[name], *self._energy.get(name, (0.0, 0.0))) for name in names
        )

    def _stop(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return
        phase = self._clock.enter(None)
        tracker.stop()
        self._take(phase)
        self._sum_up()

    def _tell(self, trainer: Trainer) -> None:
        if self._tracker is None:
            return
        self.enter(self._clock.phase)
        metrics = self.metrics()
        for logger in trainer.loggers:
            telling(logger, "the energy", partial(logger.log_metrics, metrics, step=trainer.global_step))
        rank_zero_info(
            f"Energy: {self.kwh:.6f} kWh, {self.kg:.6f} kg CO2-equivalents ({self.country}), as far as an average car "
            f"comes in {car_miles(self.kg):.4f} miles; {self.source}."
        )

    def metrics(self) -> dict[str, float]:
        """The numbers for a Trainer's logger.

        Returns:
            ``energy/kwh``, ``energy/kg_co2``, and ``energy/<phase>/kwh`` and ``.../seconds``, with ``_`` for spaces.
        """
        found = {"energy/kwh": self.kwh, "energy/kg_co2": self.kg}
        for phase in self.phases:
            name = phase.name.replace(" ", "_")
            found |= {f"energy/{name}/kwh": phase.kwh or 0.0, f"energy/{name}/seconds": phase.seconds}
        return found


def _import_codecarbon() -> Any:
    try:
        return importlib.import_module("codecarbon")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`EnergyMonitor` needs {error.name}, which comes with the extra `energy`: pip install "
            "'lightning-cosprune[energy]'.",
            name=error.name,
        ) from error


def _describe(tracker: Any) -> str:
    """How the tracker finds its energy, in words."""
    parts = []
    for hardware in getattr(tracker, "_hardware", ()):
        kind, told = type(hardware).__name__, str(hardware)
        mode = getattr(hardware, "_mode", "")
        if kind == "GPU" or mode in ("intel_rapl", "intel_power_gadget", "windows_emi"):
            parts.append(f"{kind} measured ({mode or 'its own counters'})")
        elif kind == "CPU":
            parts.append(f"CPU estimated from {'load and' if 'load' in mode else 'its'} rated power ({told})")
        else:
            parts.append(f"{kind} estimated ({told})")
    return "; ".join(parts) or "nothing that could be read"
