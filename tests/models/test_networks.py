import pytest
import torch

from lightning_cosprune import PruningPlan, apply_plan, measure_complexity
from lightning_cosprune.models import DCASE2021Baseline, DCASE2022Baseline


def test_dcase2021_counts_as_published() -> None:
    complexity = measure_complexity(DCASE2021Baseline(), torch.zeros(1, 1, 40, 500))
    assert complexity.params == 46_246
    assert complexity.trainable_params == 46_118
    assert complexity.macs == 286_637_800


def test_dcase2022_counts_as_published() -> None:
    complexity = measure_complexity(DCASE2022Baseline(), torch.zeros(1, 1, 40, 51))
    assert complexity.params == 14_886
    assert complexity.macs == 5_369_960


@pytest.mark.parametrize(
    ("kept", "params", "macs_cut"),
    [
        ((11, 16, 32), 42_056, 0.2906),
        ((16, 11, 32), 34_461, 0.2954),
        ((16, 16, 22), 36_356, 0.0219),
        ((11, 11, 32), 31_496, 0.5005),
        ((16, 11, 22), 27_021, 0.3104),
        ((11, 11, 22), 24_056, 0.5156),
    ],
)
def test_pruned_sizes_are_the_published_ones(kept: tuple[int, ...], params: int, macs_cut: float) -> None:
    """Singh and Plumbley (INTERSPEECH 2022), with true MACs: the next layer's smaller input counts too."""
    filters = {"conv1": 16, "conv2": 16, "conv3": 32}
    pruned = {name: list(range(rest, full)) for rest, (name, full) in zip(kept, filters.items(), strict=True)}
    model = DCASE2021Baseline()
    report = apply_plan(model, PruningPlan(pruned, filters), torch.zeros(1, 1, 40, 500))
    assert report.after.params == params
    assert 1 - report.after.macs / report.before.macs == pytest.approx(macs_cut, abs=5e-5)


def test_widths_are_those_of_a_pruned_network() -> None:
    """One built small has what one that was pruned has."""
    small = measure_complexity(DCASE2021Baseline(widths=(11, 11, 22)), torch.zeros(1, 1, 40, 500))
    assert small.params == 24_056
    wide = DCASE2021Baseline(widths=(32, 32, 64))
    pruned = {"conv1": list(range(16)), "conv2": list(range(16)), "conv3": list(range(32))}
    report = apply_plan(wide, PruningPlan(pruned, {"conv1": 32, "conv2": 32, "conv3": 64}), torch.zeros(1, 1, 40, 500))
    assert report.after.params == 46_246
    with pytest.raises(ValueError, match=r"`DCASE2022Baseline\(widths=\(16, 16\)\)`: expected 3 positive"):
        DCASE2022Baseline(widths=(16, 16))


@pytest.mark.parametrize("network", [DCASE2021Baseline, DCASE2022Baseline])
@pytest.mark.parametrize(("bands", "frames"), [(40, 51), (40, 250), (40, 501), (64, 100)])
def test_other_inputs(network: type[torch.nn.Module], bands: int, frames: int) -> None:
    assert network(7, bands, frames)(torch.zeros(2, 1, bands, frames)).shape == (2, 7)


@pytest.mark.parametrize("network", [DCASE2021Baseline, DCASE2022Baseline])
@pytest.mark.parametrize(("bands", "frames"), [(19, 500), (40, 4)])
def test_too_small_inputs_are_refused(network: type[torch.nn.Module], bands: int, frames: int) -> None:
    with pytest.raises(
        ValueError, match=rf"`{network.__name__}.num_bands={bands}, num_frames={frames}.*at least 20 bands and 5 frames"
    ):
        network(num_bands=bands, num_frames=frames)
