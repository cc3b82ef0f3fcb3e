"""What a network may cost: a user's words for it, and the rules of challenges by their name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_cosprune.arguments import as_real, as_whole

__all__ = ["BUDGETS", "COSTS", "DTYPES", "Budget", "Limit", "check_with_budget", "parse_budget", "parse_limit"]

COSTS = ("macs", "params", "bytes", "latency")
"""What can be limited; the names that follow ``max_``."""

DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
}
"""Data type that a network is deployed in -> bytes of one number."""

_UNITS = {
    "macs": {"": 1, "k": 10**3, "m": 10**6, "g": 10**9},
    "params": {"": 1, "k": 10**3, "m": 10**6, "g": 10**9},
    "bytes": {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30},
}
_WORDS = {"macs": r"macs?|", "params": r"params?|parameters?|", "bytes": r"b|bytes?"}
_EXAMPLES = {"macs": '"30 MMACs"', "params": '"100 k"', "bytes": '"128 kB"', "latency": "0.6"}


@dataclass(frozen=True)
class Limit:
    """At most so much of one cost.

    Attributes:
        cost: ``"macs"``, ``"params"``, ``"bytes"`` or ``"latency"``.
        at_most: A number of units, or where ``relative`` a fraction of what the dense network costs.
        relative: Whether it is a fraction.
    """

    cost: str
    at_most: float
    relative: bool = False

    def units(self, dense: float) -> float:
        """The limit in units, where the dense network costs ``dense``; for what is counted a whole number."""
        found = self.at_most * dense if self.relative else self.at_most
        return found if self.cost == "latency" else float(math.floor(found + 1e-9 * max(found, 1)))

    def __str__(self) -> str:
        shown = f"{self.at_most:g} of the dense network's" if self.relative else f"{self.at_most:,.0f}"
        return f"max_{self.cost} = {shown}"


@dataclass(frozen=True)
class Budget:
    """Several limits at once, and how what they limit is counted.

    Attributes:
        limits: At most one for each cost.
        deployed_as: A data type of :data:`DTYPES` that every number is stored in, or ``None`` for those of now.
        buffers: Whether the statistics of batch norms count among parameters and bytes.
        source: Whose rule it is, or ``""``.
    """

    limits: tuple[Limit, ...] = ()
    deployed_as: str | None = None
    buffers: bool = True
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.limits)

    def of(self, cost: str) -> Limit | None:
        """The limit of one cost."""
        return next((limit for limit in self.limits if limit.cost == cost), None)


_SIZE = Limit("bytes", 128_000)
_WORK = Limit("macs", 30_000_000)

BUDGETS: Mapping[str, Budget] = {
    "dcase2021": Budget(
        (_SIZE,),
        source="DCASE 2021, task 1A: 128 KB of parameters that are not zero, in the data type handed in; read as the "
        "smaller of the two kilobytes. After structured pruning none is zero by design.",
    ),
    "dcase2022": Budget(
        (Limit("params", 128_000), _WORK),
        deployed_as="int8",
        source="DCASE 2022, task 1: 128 k parameters in int8, those that are zero included, and 30 MMACs for one "
        "second of audio.",
    ),
    "dcase2024": Budget(
        (_SIZE, _WORK),
        buffers=False,
        source="DCASE 2024, task 1: 128 kB of parameters in the data type handed in, and 30 MMACs for one second.",
    ),
    "dcase2025": Budget(
        (_SIZE, _WORK),
        buffers=False,
        source="DCASE 2025, task 1: 128 kB of parameters in the data type handed in, counted over "
        "`model.parameters()`, and 30 MMACs for one second; with one network a device, for each of them.",
    ),
}
"""Name of a challenge -> its rule. The MACs hold for one second of audio: pass an example input of that length."""


def parse_limit(cost: str, given: Any, caller: str) -> Limit:
    """What a user's limit of one cost means.

    Args:
        cost: A name of :data:`COSTS`.
        given: A whole number of units; a fraction of the dense network's cost, between 0 and 1; or a string such as
            ``"30 MMACs"``, ``"128 kB"``, ``"64 KiB"``, ``"1.5 M"`` or ``"40 %"``. k, M and G are powers of 1,000, Ki,
            Mi and Gi of 1,024. Of latency, which depends on the machine, only a fraction.
        caller: Name that an error is about.

    Returns:
        The limit.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> parse_limit("bytes", "128 kB", "plan_pruning")
        Limit(cost='bytes', at_most=128000.0, relative=False)
    """
    number = as_real(given)
    relative = number is not None and 0 < number < 1
    if isinstance(given, str):
        found = re.fullmatch(r"\s*([\d_,]*\.?\d+(?:e\d+)?)\s*([a-z% ]*)\s*", given, re.IGNORECASE)
        if found:
            number, relative = _in_units(cost, float(re.sub("[,_]", "", found[1])), found[2].replace(" ", "").lower())
    whole = relative or (number is not None and cost != "latency" and number >= 1 and float(number).is_integer())
    # A float of 1.0 may be meant as all of the dense network's cost, as well as one unit.
    if number is None or not math.isfinite(number) or not whole or (number == 1 and as_whole(given) is None):
        kinds = "a fraction of the dense network's time" if cost == "latency" else "a whole number, a fraction"
        raise ValueError(
            f"`{caller}(max_{cost}={given!r})`: expected {kinds} between 0 and 1, or a string such as "
            f"{_EXAMPLES[cost] if cost != 'latency' else chr(34) + '60 %' + chr(34)}. To allow 40 % of what the dense "
            "network costs write 0.4."
        )
    return Limit(cost, number, relative)


def _in_units(cost: str, number: float, unit: str) -> tuple[float | None, bool]:
    """The number of single units, and whether it is a fraction; no number where the unit is not known."""
    if unit == "%":
        return (number / 100, True) if 0 < number < 100 else (None, False)
    if cost == "latency":
        return number, not unit and 0 < number < 1
    if not unit and 0 < number < 1:
        return number, True
    found = re.fullmatch(rf"([kmg]i?|)({_WORDS[cost]})", unit)
    factor = _UNITS[cost].get(found[1]) if found else None
    # A number of bytes without its unit might be a number of parameters.
    if factor is None or (cost == "bytes" and found and not found[2] and unit):
        return None, False
    scaled = number * factor
    return (float(round(scaled)) if abs(scaled - round(scaled)) < 1e-6 * max(scaled, 1) else scaled), False


def parse_budget(
    caller: str,
    *,
    budget: str | None = None,
    deployed_as: str | None = None,
    max_macs: Any = None,
    max_params: Any = None,
    max_bytes: Any = None,
    max_latency: Any = None,
) -> Budget:
    """What a user's limits mean all together; a preset is overruled by a limit of the same cost.

    Returns:
        The budget, with no limits where none was given.

    Raises:
        ValueError: A limit, a name or a data type is not understood.
    """
    if budget is not None and (not isinstance(budget, str) or budget not in BUDGETS):
        raise ValueError(
            f"`{caller}(budget={budget!r})`: expected {' or '.join(map(repr, BUDGETS))}. For a limit of your own write "
            'max_macs="30 MMACs", max_params=100_000 or max_bytes="128 kB".'
        )
    if deployed_as is not None and (not isinstance(deployed_as, str) or deployed_as not in DTYPES):
        raise ValueError(
            f"`{caller}(deployed_as={deployed_as!r})`: expected {' or '.join(map(repr, DTYPES))}. Choose one."
        )
    preset = BUDGETS[budget] if budget else Budget()
    given = {"macs": max_macs, "params": max_params, "bytes": max_bytes, "latency": max_latency}
    own = {cost: parse_limit(cost, value, caller) for cost, value in given.items() if value is not None}
    limits = {limit.cost: limit for limit in preset.limits} | own
    in_order = tuple(limits[cost] for cost in COSTS if cost in limits)
    return Budget(in_order, deployed_as or preset.deployed_as, preset.buffers, preset.source)


def check_with_budget(budget: Budget, pruning_ratio: Any, deployed_as: str | None, caller: str) -> None:
    """Refuse arguments that say twice how much goes, or have no meaning without a limit.

    Raises:
        ValueError: With what to leave out.
    """
    if budget and pruning_ratio != "redundant":
        raise ValueError(
            f"`{caller}(pruning_ratio={pruning_ratio!r}, max_{budget.limits[0].cost}=...)`: expected either a ratio or "
            "a limit, found both. With a limit, how much of each layer goes is what is sought: leave the ratio out."
        )
    if deployed_as is not None and budget.of("bytes") is None:
        raise ValueError(
            f"`{caller}(deployed_as={deployed_as!r})`: expected a limit of bytes beside it, found none. Write "
            'max_bytes="128 kB", or leave it out.'
        )
