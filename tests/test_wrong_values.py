"""Wrong values thrown at every public parameter: each answer is one error of ours, and nothing is changed."""

from __future__ import annotations

import copy
import importlib
import inspect
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from asserts import assert_same
from torch import nn

import lightning_cosprune as package
from lightning_cosprune import (
    CosineFilterPruning,
    PruningPlan,
    apply_plan,
    data,
    models,
    plan_pruning,
    rank_filters,
    redundant_filters,
    sensitivity,
)
from lightning_cosprune.data import DCASEScenes, nested_fraction
from lightning_cosprune.ranking import criteria, similarity
from lightning_cosprune.reports import energy
from lightning_cosprune.reports.sensitivity import plot_sensitivity
from lightning_cosprune.training.schedule import Schedule

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
VECTORS = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
PLAN = PruningPlan({"0": [1]}, {"0": 8})
DENSE = network()
PRUNED = network()
CUT = apply_plan(PRUNED, PLAN, EXAMPLE)
CURVES = sensitivity(MODEL, EXAMPLE, criterion="l1", fractions=(0.5,))
SMALL = {"num_classes": 2}
REPAIR = {"pruned": PRUNED, "dense": DENSE}


def tiny(**options: Any) -> nn.Module:
    return network()


# What is called, with good values for what has no default.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "CosineFilterPruning": (CosineFilterPruning, {}),
    "KnowledgeDistillation": (package.KnowledgeDistillation, {}),
    "EnergyMonitor": (package.EnergyMonitor, {"country": "GBR"}),
    "SafeWandbLogger": (package.SafeWandbLogger, {"mode": "disabled"}),
    "plan_pruning": (plan_pruning, {"model": MODEL, "example_inputs": EXAMPLE, "pruning_ratio": 0.5}),
    "apply_plan": (apply_plan, {"model": MODEL, "plan": PLAN, "example_inputs": EXAMPLE, "optimizers": [OPTIMIZER]}),
    "PruningPlan": (PruningPlan, {"pruned": {"0": [1]}, "filters": {"0": 8}}),
    "sensitivity": (sensitivity, {"model": MODEL, "example_inputs": EXAMPLE, "criterion": "l1", "fractions": (0.5,)}),
    "response_vectors": (package.response_vectors, {"model": MODEL, "batches": [EXAMPLE]}),
    "fold_batch_norms": (package.fold_batch_norms, {"model": MODEL, "example_inputs": EXAMPLE}),
    "measure_complexity": (package.measure_complexity, {"model": MODEL, "example_inputs": EXAMPLE}),
    "measure_latency": (package.measure_latency, {"model": MODEL, "example_inputs": EXAMPLE, "seconds": 0.001}),
    "refit_least_squares": (package.refit_least_squares, {**REPAIR, "calibration": [EXAMPLE], "report": CUT}),
    "merge_removed": (package.merge_removed, {**REPAIR, "report": CUT, "example_inputs": EXAMPLE}),
    "compensate_constants": (package.compensate_constants, {**REPAIR, "report": CUT, "example_inputs": EXAMPLE}),
    "load_pruned": (package.load_pruned, {"module_class_or_factory": tiny, "checkpoint": PRUNED.state_dict()}),
    "write_report": (package.write_report, {"path": "report.html", "record": package.RunRecord()}),
    "filter_vectors": (package.filter_vectors, {"weight": WEIGHT}),
    "cosine_similarity": (package.cosine_similarity, {"vectors": VECTORS}),
    "nystrom_similarity": (package.nystrom_similarity, {"vectors": VECTORS, "columns": 3}),
    "redundant_filters": (redundant_filters, {"weight": WEIGHT}),
    "rank_filters": (rank_filters, {"weight": WEIGHT}),
    "data.DCASEScenes": (DCASEScenes, {"root": "set"}),
    "data.TAUUrbanAcousticScenes2019": (data.TAUUrbanAcousticScenes2019, {"root": "set"}),
    "data.TAUUrbanAcousticScenes2020Mobile": (data.TAUUrbanAcousticScenes2020Mobile, {"root": "set"}),
    "data.TAUUrbanAcousticScenes2022Mobile": (data.TAUUrbanAcousticScenes2022Mobile, {"root": "set"}),
    "data.ESC10": (data.ESC10, {"root": "set"}),
    "data.ESC50": (data.ESC50, {"root": "set"}),
    "data.SyntheticScenes": (data.SyntheticScenes, {"root": "set"}),
    "data.LogMel": (data.LogMel, {}),
    "data.FrontEnd": (data.FrontEnd, {"features": data.LogMel()}),
    "data.nested_fraction": (nested_fraction, {"table": TABLE, "fraction": 0.5}),
    "data.FractionSampler": (data.FractionSampler, {"table": TABLE, "fraction": 0.5}),
    "data.DeviceImpulseResponse": (data.DeviceImpulseResponse, {"folder": "responses"}),
    "data.FreqMixStyle": (data.FreqMixStyle, {}),
    "data.FrequencyMask": (data.FrequencyMask, {"max_width": 4}),
    "data.TimeMask": (data.TimeMask, {"max_width": 4}),
    "data.Mixup": (data.Mixup, {}),
    "data.TimeRoll": (data.TimeRoll, {}),
    "data.reassemble": (data.reassemble, {"root": "set", "destination": "again"}),
    "data.write_submission": (
        data.write_submission,
        {"path": "out.csv", "filenames": ["a.wav"], "probabilities": torch.ones(1, 1), "scene_labels": ["bus"]},
    ),
    "models.SceneClassifier": (models.SceneClassifier, {"network": MODEL}),
    "models.CPMobile": (models.CPMobile, SMALL),
    "models.Cnn6": (models.Cnn6, {**SMALL, "widths": [4] * 4}),
    "models.Cnn10": (models.Cnn10, {**SMALL, "widths": [4] * 8}),
    "models.Cnn14": (models.Cnn14, {**SMALL, "widths": [4] * 12}),
    "models.DCASE2021Baseline": (models.DCASE2021Baseline, SMALL),
    "models.DCASE2022Baseline": (models.DCASE2022Baseline, SMALL),
    "models.VGGishASC": (models.VGGishASC, {**SMALL, "widths": [4] * 6, "hidden": (4, 4)}),
    "models.YAMNet": (models.YAMNet, {**SMALL, "widths": [4] * 14}),
    "models.log_mel_patches": (models.log_mel_patches, {"waveform": torch.zeros(16_000)}),
    "models.read_class_names": (models.read_class_names, {"path": "names.csv"}),
    "ranking.criteria.l1": (criteria.l1, {"weight": WEIGHT}),
    "ranking.criteria.l2": (criteria.l2, {"weight": WEIGHT}),
    "ranking.criteria.geometric_median": (criteria.geometric_median, {"weight": WEIGHT}),
    "ranking.criteria.geometric_mean": (criteria.geometric_mean, {"weight": WEIGHT}),
    "ranking.criteria.operator_norm": (criteria.operator_norm, {"weight": WEIGHT}),
    "ranking.criteria.random": (criteria.random, {"weight": WEIGHT}),
    "ranking.similarity.nystrom_factor": (similarity.nystrom_factor, {"vectors": VECTORS, "columns": 3}),
    "ranking.similarity.nystrom_columns": (similarity.nystrom_columns, {"vectors": VECTORS}),
    "ranking.similarity.nearest_neighbours": (similarity.nearest_neighbours, {"factor": VECTORS}),
    "reports.sensitivity.plot_sensitivity": (plot_sensitivity, {"found": CURVES}),
    "reports.energy.emissions_of": (energy.emissions_of, {"watts": 1, "hours": 1, "kg_per_kwh": 1}),
    "reports.energy.car_miles": (energy.car_miles, {"kg": 1}),
    "reports.energy.energy_of_inferences": (energy.energy_of_inferences, {"seconds": 1, "watts": 1}),
    "training.schedule.Schedule": (Schedule, {"epochs": (1, 2)}),
}

CALLS |= {
    "Outcome": (package.Outcome, {"label": "dense"}),
    "RunRecord": (package.RunRecord, {}),
    "PruningPlan.from_dict": (PruningPlan.from_dict, {}),
    "PruningPlan.from_json": (PruningPlan.from_json, {}),
    "RunRecord.from_dict": (package.RunRecord.from_dict, {}),
    "RunRecord.from_json": (package.RunRecord.from_json, {}),
    "RunRecord.of": (package.RunRecord.of, {"reports": [CUT]}),
    "models.PANN.from_pretrained": (models.PANN.from_pretrained, {}),
    "models.YAMNet.from_pretrained": (models.YAMNet.from_pretrained, {}),
}

# What is public and not called here, and why.
VALUES = "a value that the package returns; nobody makes one by hand"
NO_ARGUMENTS = "takes no arguments"
NOT_CALLED = {
    "Complexity": VALUES,
    "FoldedLayer": VALUES,
    "Latency": VALUES,
    "PruningReport": VALUES,
    "Redundancy": VALUES,
    "RepairReport": VALUES,
    "Sensitivity": VALUES,
    "surgery.report.LayerReport": VALUES,
    "data.SceneBatch": VALUES,
    "AtomicCheckpointIO": NO_ARGUMENTS,
    "PrunableMixin": NO_ARGUMENTS,
    "data.Augmentation": NO_ARGUMENTS,
    "planning.speed.table_file": NO_ARGUMENTS,
    "models.PANN": "what its subclasses have in common",
    "models.PANN.num_blocks": NO_ARGUMENTS,
    "models.PANN.layer_names": NO_ARGUMENTS,
    "planning.widths.choose_widths": "given arrays by the planner; tests/planning/test_widths.py has its errors",
}

# Switches, of which anything is true or false, and what is kept for later without being looked at.
FREE = {"progress", "resample", "download", "keep_archives", "shuffle", "last_frame", "allow_unpruned", "reset_scores"}
FREE |= {"strict", "module", "fill", "channels_last"}
# What is found only with the folder or the network, and tested there.
LATER = {("CosineFilterPruning", "example_inputs"), ("CosineFilterPruning", "report")}


def public() -> dict[str, Any]:
    """Every public class, function and class method, as docs/api.md lists them."""
    found = {}
    for module in (package, data, models, criteria):
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    for path in re.findall(r"auto(?:function|class):: (\S+)", (Path(__file__).parents[1] / "docs/api.md").read_text()):
        module, _, name = (path if "." in path else f"lightning_cosprune.{path}").rpartition(".")
        found[f"{module}.{name}"] = getattr(importlib.import_module(module), name)
    for path, one in [item for item in found.items() if isinstance(item[1], type)]:  # other ways to make one
        found |= {
            f"{path}.{name}": getattr(one, name)
            for name, method in vars(one).items()
            if isinstance(method, classmethod) and not name.startswith("_")
        }
    return {name.removeprefix("lightning_cosprune."): one for name, one in found.items() if callable(one)}


def test_all_that_is_public_is_called_here() -> None:
    found = public()
    assert set(found) == set(CALLS) | set(NOT_CALLED)
    assert not set(CALLS) & set(NOT_CALLED)
    assert all(CALLS[name][0] == found[name] for name in CALLS)


def parameters() -> list[tuple[str, str]]:
    found = []
    for name, (call, _) in CALLS.items():
        given = [*inspect.signature(call).parameters.values()]
        if isinstance(call, type) and issubclass(call, DCASEScenes):
            given += inspect.signature(DCASEScenes).parameters.values()
        names = {one.name for one in given if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        found += [(name, parameter) for parameter in sorted(names - FREE) if (name, parameter) not in LATER]
    return found


def is_good(name: str, parameter: str, value: Any) -> bool:
    """Whether a value of the pool is no wrong one in this place, and does what cannot be undone."""
    if parameter in ("criterion", "score", "pool"):
        return value is int or isinstance(value, nn.Module)  # what a callable raises is its owner's
    if (name, parameter) == ("measure_latency", "seconds"):
        return isinstance(value, (int, float, np.number, torch.Tensor)) and np.ndim(value) == 0 and 1 <= value <= 3
    if (name, parameter) in (("data.DeviceImpulseResponse", "device"), ("data.reassemble", "destination")):
        return isinstance(value, (str, Path)) and value != Path()  # what is told is that there is no folder or set
    if parameter == "optimizers":
        return isinstance(value, (str, list, tuple, dict)) and not value  # no optimizers, and so a cut
    if (name, parameter) == ("apply_plan", "normalising"):
        return isinstance(value, (list, tuple, dict)) and not value  # no norms, and so a cut
    return False


@pytest.mark.parametrize(("name", "parameter"), parameters())
def test_each_answer_is_one_error_that_names_the_parameter(
    name: str, parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    call, good = CALLS[name]
    watched = [MODEL, PRUNED, DENSE]
    before = [copy.deepcopy(one.state_dict()) for one in watched]
    state = copy.deepcopy(OPTIMIZER.state_dict())
    wrong = []
    for value in random.Random(f"{name}{parameter}").sample(POOL, len(POOL)):
        if is_good(name, parameter, value):
            continue
        try:
            call(**{**good, parameter: value})
        except (ValueError, TypeError, OSError) as error:
            text = str(error)
            frames = inspect.getinnerframes(error.__traceback__)
            ours = "lightning_cosprune" in frames[-1].filename
            named = parameter.removeprefix("nystrom_") in text or "layer" in text
            if not (ours and named and re.search(r"expected .*\. \S|\. Pass `", text, re.DOTALL)):
                wrong.append(f"{value!r:.40}: {type(error).__name__}: {text:.150}")
        except Exception as error:
            wrong.append(f"{value!r:.40}: {type(error).__name__}: {error!s:.150}")
        else:
            for path in tmp_path.iterdir():  # what a good value writes
                path.unlink() if path.is_file() else shutil.rmtree(path)
            PRUNED.load_state_dict(before[1])  # what a repair does with a good value
        for one, content in zip(watched, before, strict=True):
            assert_same(dict(one.state_dict()), dict(content))
        assert_same(OPTIMIZER.state_dict(), state)
        assert not list(tmp_path.iterdir()), value
    assert not wrong, "\n".join(wrong)


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
        ("data.DCASEScenes", {"train_fraction": np.float32(0.5), "batch_size": np.int64(4), "seed": torch.tensor(3)}),
        ("data.nested_fraction", {"fraction": np.float64(0.5), "seed": np.int64(3)}),
        ("redundant_filters", {"nystrom_columns": np.int64(2)}),
        ("CosineFilterPruning", {"calibration": np.int64(4), "max_macs": np.float32(0.5), "max_bytes": np.int64(700)}),
        ("CosineFilterPruning", {"calibration": torch.tensor(4), "max_params": torch.tensor(150)}),
        ("sensitivity", {"fractions": np.array([0.25, 0.5]), "seed": torch.tensor(1)}),
        ("data.LogMel", {"power": np.int64(2), "fmax": np.float32(8000), "n_mels": torch.tensor(20)}),
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
            "data.DCASEScenes",
            {"train_fraction": "0.5"},
            r"train_fraction='0.5'\)`: expected a fraction.*found a str.*quotes",
        ),
        (
            "data.DCASEScenes",
            {"batch_size": 1.5},
            r"batch_size=1.5\)`: expected a whole number of at least 1, found a float",
        ),
        ("data.DCASEScenes", {"seed": None}, r"seed=None\)`: expected a whole number from 0 to .*, found None"),
        ("data.DCASEScenes", {"devices": [1]}, r"devices=\[1\]\)`: expected names such as .*found a int"),
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


def test_a_tensor_with_an_axis_is_no_number() -> None:
    for name, parameter in (
        ("CosineFilterPruning", "seed"),
        ("data.LogMel", "n_mels"),
        ("models.CPMobile", "num_classes"),
    ):
        call, good = CALLS[name]
        with pytest.raises(TypeError, match=rf"{parameter}=tensor\(\[3\]\)\)`: expected a whole number"):
            call(**{**good, parameter: torch.tensor([3])})


def test_a_front_end_of_another_type_is_told() -> None:
    with pytest.raises(ValueError, match=r"features=\{\}\)`: expected 'dcase2019'"):
        DCASEScenes("set", features={})
