import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from weights import laws, normal

from lightning_cosprune import cosine_similarity, redundant_filters, response_vectors


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten(2)).double()


def batches(count=3, size=5, dtype=torch.float64):
    return [normal(size, 2, 9, 9, seed=seed).to(dtype) + seed for seed in range(count)]


def correlations(model, name, data):
    """All responses kept, then NumPy's correlation coefficients."""
    kept = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        for batch in data:
            model.eval()(batch)
    handle.remove()
    axis = -1 if isinstance(model.get_submodule(name), nn.Linear) else 1
    return np.corrcoef(np.concatenate([output.movedim(axis, 0).flatten(1).numpy() for output in kept], axis=1))


@pytest.mark.parametrize("name", ["0", "1", "2", "3", "4"])
def test_their_cosine_similarity_is_the_correlation_of_the_responses(name):
    model = network()
    vectors = response_vectors(model, batches(), [name])[name]
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), correlations(model, name, batches()), atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv1d(2, 5, 3), (3, 2, 8)), (nn.Conv3d(2, 5, 2), (3, 2, 4, 4, 4)), (nn.Linear(4, 5), (3, 7, 4))],
)
def test_filters_lie_where_the_kind_of_layer_has_them(layer, shape):
    model = nn.Sequential(layer).double()
    data = [normal(*shape, seed=seed) for seed in range(2)]
    vectors = response_vectors(model, data, "0")["0"]
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), correlations(model, "0", data), atol=1e-10)


@laws
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), offset=st.floats(0, 1e4))
def test_it_does_not_matter_how_the_data_are_cut_into_batches(seed, sizes, offset):
    model = nn.Sequential(nn.Conv2d(2, 4, 3)).double()
    data = normal(sum(sizes), 2, 6, 6, seed=seed) + offset
    whole = response_vectors(model, [data])["0"]
    parts = response_vectors(model, data.split(sizes))["0"]
    torch.testing.assert_close(parts @ parts.T, whole @ whole.T, rtol=0, atol=1e-9)


def test_empty_batches_add_nothing():
    model = network()
    with_empty = response_vectors(model, [torch.empty(0, 2, 9, 9).double(), *batches()])["0"]
    assert torch.equal(with_empty, response_vectors(model, batches())["0"])


def test_float32_responses_far_from_zero_lose_little():
    model = nn.Sequential(nn.Conv2d(2, 6, 3))
    data = [batch + 100 for batch in batches()]
    exact = response_vectors(model.double(), data)["0"]
    found = response_vectors(model.float(), [batch.float() for batch in data])["0"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found @ found.T, (exact @ exact.T).float(), rtol=0, atol=1e-3)


def test_similarity_is_that_of_flat_weights_in_the_metric_of_the_inputs():
    model = nn.Sequential(nn.Conv2d(2, 6, 3)).double()
    data = batches()
    patches = torch.cat([nn.functional.unfold(batch, 3) for batch in data]).movedim(1, 0).flatten(1)
    weight = model[0].weight.detach().flatten(1)
    scatter = weight @ patches.cov() @ weight.T
    scale = scatter.diagonal().rsqrt()
    torch.testing.assert_close(cosine_similarity(response_vectors(model, data)["0"]), scatter * scale.outer(scale))


def test_white_noise_in_gives_the_similarity_of_the_flat_weights():
    model = nn.Sequential(nn.Conv2d(2, 6, 3))
    found = response_vectors(model, [normal(400, 2, 16, 16).float()])["0"]
    torch.testing.assert_close(found @ found.T, cosine_similarity(model[0].weight.flatten(1)), rtol=0, atol=0.02)


def test_the_published_rule_takes_response_vectors():
    model = network()
    model[0].weight.data[4] = -3 * model[0].weight.data[1]
    model[0].weight.data[5] = 3 * model[0].weight.data[2]
    found = redundant_filters(response_vectors(model, batches())["0"])
    assert found.partner[5] == 2
    assert found.partner[2] == 5
    assert 5 in found.pruned_idxs
    assert found.similarity[5] == pytest.approx(1)
    assert found.partner[4] != 1  # opposite responses are not similar


def test_constant_responses_are_dead():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU())
    model[0].weight.data[[1, 4]] = 0
    model[0].bias.data[1] = 3.7
    model[0].bias.data[3] = -1e3  # never passes the ReLU
    data = batches(dtype=torch.float32)
    assert (response_vectors(model, data)["0"] == 0).all(dim=1).nonzero().flatten().tolist() == [1, 4]
    assert (response_vectors(model, data, ["1"])["1"] == 0).all(dim=1).nonzero().flatten().tolist() == [1, 3, 4]
    model[0].weight.data.zero_()
    assert (response_vectors(model, data)["0"] == 0).all()
    assert redundant_filters(response_vectors(model, data)["0"]).kept_idxs == [0]


def test_a_layer_that_is_called_twice_gives_the_responses_to_both():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3)

        def forward(self, left, right):
            return self.conv(left) - self.conv(right)

    model, (left, right) = Siamese().double(), batches(2)
    both = response_vectors(model, [(left, right), {"left": left, "right": left}])["conv"]
    expected = response_vectors(nn.Sequential(model.conv), [left, right, left, left])["0"]
    torch.testing.assert_close(both @ both.T, expected @ expected.T)


def test_the_network_is_left_as_it_was():
    model = network().train()
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    response_vectors(model, (batch for batch in batches()))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert [module.training for module in model] == [True, True, True, False, True]
    assert not any(module._forward_hooks for module in model)


def test_low_precision_and_autocast_are_measured_in_float32():
    model = nn.Sequential(nn.Conv2d(2, 6, 3))
    data = batches(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = response_vectors(model, data)["0"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found @ found.T, (full := response_vectors(model, data)["0"]) @ full.T, rtol=0, atol=0.05
    )


@pytest.mark.parametrize(
    ("model", "data", "layers", "message"),
    [
        (network(), [], None, "expected at least one batch, found none"),
        (network(), batches(1), ["3", "norm"], r"layers=\['norm', \.\.\.\]\)`: expected names of modules of"),
        (nn.Sequential(nn.Linear(2, 2)), [torch.ones(1, 2)], None, "expected at least one layer, found none"),
        (nn.Sequential(nn.Conv2d(2, 3, 9)), [torch.ones(1, 2, 9, 9)], None, "'0' to be reached with two positions"),
        (nn.Sequential(nn.LSTM(2, 2)), [torch.ones(3, 1, 2)], ["0"], "one floating-point tensor .*found tuple"),
        (nn.Sequential(nn.Flatten(0)), [torch.ones(3, 2)], ["0"], r"found torch.float32 of shape \(6,\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, data, layers, message):
    with pytest.raises(ValueError, match=message):
        response_vectors(model, data, layers)
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_that_are_not_reached_are_refused():
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    model.spare = nn.Conv2d(2, 3, 3)
    model.forward = lambda x: model[0](x)
    with pytest.raises(ValueError, match="'spare' to be reached with two positions or more, found 0"):
        response_vectors(model, batches(1, dtype=torch.float32))


def test_a_layer_must_give_the_same_filters_in_each_call():
    model = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match="'0' to give 3 filters in each call, found 2"):
        response_vectors(model, [torch.randn(4, 3), torch.randn(4, 2)], ["0"])


def test_responses_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Conv2d(2, 6, 3))
    model[0].bias.data[[2, 5]] = torch.nan
    with pytest.raises(ValueError, match=r"layer '0', found NaN or infinity in 2 of 6 filters: 2, 5\."):
        response_vectors(model, batches(dtype=torch.float32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_vectors_are_as_similar():
    model, data = network(), batches()
    expected = response_vectors(model, data)["2"]
    found = response_vectors(model.cuda(), [batch.cuda() for batch in data])["2"]
    assert found.is_cuda
    torch.testing.assert_close((found @ found.T).cpu(), expected @ expected.T)
