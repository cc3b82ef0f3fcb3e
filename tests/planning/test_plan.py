import copy
import pickle

import pytest
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import PruningPlan, plan_pruning


def test_json_round_trip() -> None:
    plan = plan_pruning(conv_bn(1, 16).append(nn.Conv2d(16, 3, 1)), SPECTROGRAM, pruning_ratio={"0": 0.5})
    assert PruningPlan.from_json(plan.to_json()) == plan
    assert PruningPlan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("content", [{}, {"version": 2, "pruned": {}, "filters": {}, "skipped": {}}])
def test_foreign_json_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected the keys version"):
        PruningPlan.from_dict(content)


@pytest.mark.parametrize(
    ("idxs", "message"),
    [([0, 0], "distinct"), ([4], r"\[0, 4\)"), ([-1], r"\[0, 4\)"), ([0, 1, 2, 3], "at least one of 4 filters")],
)
def test_impossible_indices_are_refused(idxs: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruningPlan({"conv": idxs}, {"conv": 4})


def test_it_can_be_copied_and_pickled() -> None:
    plan = PruningPlan({"conv": [2, 1]}, {"conv": 4}, {"head": "ignored"})
    for copied in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert copied == plan
        with pytest.raises(TypeError):
            copied.pruned["conv"] = [0]


def test_it_is_shown_layer_by_layer() -> None:
    plan = PruningPlan({"stem": [0, 3], "mix": []}, {"stem": 8, "mix": 4}, {"head": "its filters are outputs"})
    assert repr(plan) == (
        "PruningPlan: 1 layers lose filters, 1 keep all\n  stem: 2 of 8 filters go\n"
        "  head: keeps all, its filters are outputs"
    )


def test_it_cannot_be_changed() -> None:
    plan = PruningPlan({"conv": [2, 1]}, {"conv": 4})
    assert plan.pruned["conv"] == [1, 2]
    assert plan.kept == {"conv": [0, 3]}
    with pytest.raises(TypeError):
        plan.pruned["conv"] = [0]
