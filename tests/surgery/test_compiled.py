"""Compiled networks: the module beneath is pruned, and what was compiled for the old shapes is not used again."""

import pytest
import torch
from fits import UsersModule, fit
from torch import nn

from lightning_cosprune import CosineFilterPruning, apply_plan, plan_pruning

# PyTorch's compiler looks at the gradients of all inputs.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Silent(UsersModule):
    """Logs nothing: the compiler of PyTorch 2.13 does not get through Lightning 2.6's `log`."""

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Inner(Silent):
    """Compiles a part of itself."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.compile(self.blocks, backend="aot_eager")


def whole():
    return torch.compile(Silent(), backend="aot_eager")


def inner():
    return Inner()


def in_place():
    module = Silent()
    module.blocks.compile(backend="aot_eager")
    return module


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("build", [whole, inner, in_place])
def test_training_goes_on_with_code_for_the_new_shapes(build, tmp_path):
    torch.manual_seed(0)
    plain = Silent()
    torch.manual_seed(0)
    module = build()
    callbacks = [CosineFilterPruning({"stem": 0.5, "blocks.*": 0.25}, at_epoch=1) for _ in range(2)]
    fit(plain, callbacks[0], tmp_path)
    fit(module, callbacks[1], tmp_path)
    removed = [
        {layer.name.replace("_orig_mod.", ""): layer.pruned_idxs for layer in callback.reports[0].layers}
        for callback in callbacks
    ]
    assert removed[0] == removed[1]
    assert callbacks[0].reports[0].after == callbacks[1].reports[0].after
    original = module._orig_mod if build is whole else module
    found = {name.replace("_orig_mod.", ""): tensor for name, tensor in original.state_dict().items()}
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        compiled = module.eval()(images)
        with torch.compiler.set_stance("force_eager"):
            torch.testing.assert_close(compiled, module(images))


def test_layers_are_named_as_in_the_users_code():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    whole, example = torch.compile(model, backend="aot_eager"), torch.zeros(1, 1, 8, 8)
    for layers in (["0"], ["0", "_orig_mod.3"]):
        assert set(plan_pruning(whole, example, layers=layers, pruning_ratio=0.5).pruned) == {"_orig_mod.0"}
    report = apply_plan(whole, plan_pruning(whole, example, pruning_ratio={"0": 0.5}), example)
    assert [layer.filters_after for layer in report.layers] == [4]
    with torch.no_grad():
        assert torch.equal(whole(example), model(example))
