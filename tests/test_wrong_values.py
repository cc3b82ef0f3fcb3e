"""Wrong values thrown at every public parameter: each answer is one error of ours, and nothing is changed."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from asserts import assert_same
from torch import nn

from lightning_cosprune import (
    CosineFilterPruning,
    PruningPlan,
    apply_plan,
    plan_pruning,
    rank_filters,
    redundant_filters,
)
from lightning_cosprune.data import (
    DCASEScenes,
    FractionSampler,
    LogMel,
    SyntheticScenes,
    TAUUrbanAcousticScenes2022Mobile,
    nested_fraction,
)

POOL: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    1.5,
    -0.25,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "0.5",
    "nowhere",
    b"bytes",
    [],
    [5],
    [None],
    ["a", 5],
    {},
    {"a": "b"},
    {5: 0.5},
    (),
    object(),
    int,
    np.int64(2),
    np.float32(0.3),
    np.array([1, 2]),
    np.array("x"),
    torch.tensor(2),
    torch.tensor([0.5, 0.5]),
    nn.ReLU(),
    Path("nowhere"),
]

EXAMPLE = torch.ones(1, 1, 8, 8)
TABLE = pd.DataFrame({"scene_label": ["bus"] * 4, "device": ["a"] * 4, "parent": ["x", "x", "y", "y"]})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 3))


MODEL = network()
OPTIMIZER = torch.optim.Adam(MODEL.parameters())
WEIGHT = MODEL[0].weight.detach().clone()
PLAN = PruningPlan({"0": [1]}, {"0": 8})

# What is called, with good values for what has no default.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "CosineFilterPruning": (CosineFilterPruning, {}),
    "plan_pruning": (plan_pruning, {"model": MODEL, "example_inputs": EXAMPLE, "pruning_ratio": 0.5}),
    "apply_plan": (apply_plan, {"model": MODEL, "plan": PLAN, "example_inputs": EXAMPLE, "optimizers": [OPTIMIZER]}),
    "PruningPlan": (PruningPlan, {"pruned": {"0": [1]}, "filters": {"0": 8}}),
    "redundant_filters": (redundant_filters, {"weight": WEIGHT}),
    "rank_filters": (rank_filters, {"weight": WEIGHT}),
    "DCASEScenes": (DCASEScenes, {"root": "set"}),
    "TAU": (TAUUrbanAcousticScenes2022Mobile, {"root": "set"}),
    "SyntheticScenes": (SyntheticScenes, {"root": "set"}),
    "LogMel": (LogMel, {}),
    "nested_fraction": (nested_fraction, {"table": TABLE, "fraction": 0.5}),
    "FractionSampler": (FractionSampler, {"table": TABLE, "fraction": 0.5}),
}

# Switches, of which anything is true or false, and what is kept for later without being looked at.
FREE = {"progress", "resample", "download", "keep_archives", "shuffle", "last_frame", "allow_unpruned", "reset_scores"}
FREE |= {"strict", "example_inputs", "options", "module"}
# What is found only with the folder or the network, and tested there.
LATER = {"root", "cache_dir", "split", "evaluation_root", "report"}


def parameters() -> list[tuple[str, str]]:
    found = []
    for name, (call, good) in CALLS.items():
        names = set(inspect.signature(call).parameters)
        if issubclass(call, DCASEScenes) if isinstance(call, type) else False:
            names |= set(inspect.signature(DCASEScenes).parameters)
        skipped = (FREE - {"example_inputs"}) | LATER if "example_inputs" in good else FREE | LATER
        found += [(name, parameter) for parameter in sorted(names - skipped)]
    return found


@pytest.mark.parametrize(("name", "parameter"), parameters())
def test_each_answer_is_one_error_that_names_the_parameter(
    name: str, parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, good = CALLS[name]
    before, state = copy.deepcopy(MODEL.state_dict()), copy.deepcopy(OPTIMIZER.state_dict())
    wrong = []
    for value in random.Random(f"{name}{parameter}").sample(POOL, len(POOL)):
        given = {**good, parameter: value}
        try:
            if parameter == "criterion" and value is int:
                continue  # what a callable raises is its owner's
            if parameter == "optimizers" and isinstance(value, (str, list, tuple, dict)) and not value:
                continue  # no optimizers, and so a cut
            call(**given)
        except (ValueError, TypeError, OSError) as error:
            text = str(error)
            frames = inspect.getinnerframes(error.__traceback__)
            ours = "lightning_cosprune" in frames[-1].filename
            if not (
                ours
                and ("expected" in text or "Pass `" in text)
                and (parameter.removeprefix("nystrom_") in text or "layer" in text)
            ):
                wrong.append(f"{value!r:.40}: {type(error).__name__}: {text:.150}")
        except Exception as error:
            wrong.append(f"{value!r:.40}: {type(error).__name__}: {error!s:.150}")
        assert_same(dict(MODEL.state_dict()), dict(before))
        assert_same(OPTIMIZER.state_dict(), state)
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("CosineFilterPruning", {"at_epoch": np.int64(1), "pruning_ratio": np.float32(0.3), "round_to": np.int32(2)}),
        ("CosineFilterPruning", {"at_epoch": np.arange(2), "pruning_ratio": torch.tensor(0.3)}),
        ("CosineFilterPruning", {"at_epoch": torch.tensor(1), "pruning_ratio": {"0": np.float64(0.3)}}),
        ("CosineFilterPruning", {"at_epoch": {"start": np.int64(1), "stop": torch.tensor(4)}}),
        ("plan_pruning", {"pruning_ratio": np.float32(0.5), "min_filters": np.int64(1), "layers": ("0",)}),
        ("plan_pruning", {"pruning_ratio": {"0": torch.tensor(0.5)}, "round_to": torch.tensor(1)}),
        ("PruningPlan", {"pruned": {"0": np.array([1, 2])}, "filters": {"0": np.int64(8)}}),
        ("PruningPlan", {"pruned": {"0": torch.tensor([2, 1])}, "filters": {"0": torch.tensor(8)}}),
        ("DCASEScenes", {"train_fraction": np.float32(0.5), "batch_size": np.int64(4), "seed": torch.tensor(3)}),
        ("nested_fraction", {"fraction": np.float64(0.5), "seed": np.int64(3)}),
        ("redundant_filters", {"nystrom_columns": np.int64(2)}),
    ],
)
def test_numbers_of_numpy_and_tensors_without_axes_are_numbers(name: str, given: dict[str, Any]) -> None:
    call, good = CALLS[name]
    found = call(**{**good, **given})
    if name == "plan_pruning":
        assert found.pruned["0"] == plan_pruning(MODEL, EXAMPLE, pruning_ratio=0.5).pruned["0"]
    if name == "PruningPlan":
        assert found == PruningPlan({"0": [1, 2]}, {"0": 8})
        assert PruningPlan.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "DCASEScenes",
            {"train_fraction": "0.5"},
            r"train_fraction='0.5'\)`: expected a fraction.*found a str.*quotes",
        ),
        (
            "DCASEScenes",
            {"batch_size": 1.5},
            r"batch_size=1.5\)`: expected a whole number of at least 1, found a float",
        ),
        ("DCASEScenes", {"seed": None}, r"seed=None\)`: expected a whole number from 0 to .*, found None"),
        ("DCASEScenes", {"devices": [1]}, r"devices=\[1\]\)`: expected names such as .*found a int"),
        ("CosineFilterPruning", {"layers": [5]}, r"`layers=\[5\]`: expected a sequence of names .*found a int, 5"),
        (
            "CosineFilterPruning",
            {"ignored_layers": None},
            r"`ignored_layers=None`: expected .*found None.*\[\] for none",
        ),
        (
            "PruningPlan",
            {"pruned": {"0": [1.0]}},
            r"`PruningPlan.pruned\['0'\]`: expected whole numbers, found a float",
        ),
        ("PruningPlan", {"pruned": {"0": "12"}}, r"`PruningPlan.pruned\['0'\]`: expected whole numbers, found a str"),
        (
            "apply_plan",
            {"optimizers": OPTIMIZER},
            r"expected a list of optimizers .*found Adam without a list.*\[optimiz",
        ),
        ("apply_plan", {"model": nn.ReLU}, r"`apply_plan\(model=...\)`: expected .*found the class ReLU.*ReLU\(...\)"),
        ("plan_pruning", {"model": nn.ReLU}, r"`plan_pruning\(model=...\)`: expected .*found the class ReLU"),
        ("apply_plan", {"plan": {"0": [1]}}, r"`apply_plan\(plan=...\)`: expected a `PruningPlan`, found a dict"),
    ],
)
def test_a_wrong_type_is_told_as_one(name: str, given: dict[str, Any], message: str) -> None:
    call, good = CALLS[name]
    with pytest.raises(TypeError, match=message):
        call(**{**good, **given})


def test_a_front_end_of_another_type_is_told() -> None:
    with pytest.raises(ValueError, match=r"features=\{\}\)`: expected 'dcase2019'"):
        DCASEScenes("set", features={})
