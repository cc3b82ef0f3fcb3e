import torch

from recipes.benchmarks import optimizer_state


def test_all_ways_train_on_from_the_same_network(monkeypatch):
    monkeypatch.setattr(optimizer_state, "BEFORE", 1)
    monkeypatch.setattr(optimizer_state, "AFTER", 2)
    clips, scenes = torch.randn(96, 1, 40, 50), torch.arange(96) % 10
    data = (clips[:64], scenes[:64], clips[64:], scenes[64:])
    for build in optimizer_state.OPTIMIZERS.values():
        found = optimizer_state.compare(data, 0, build)
        assert set(found) == set(optimizer_state.STATES)
        assert len({losses[0] for losses in found.values()}) == 1
        assert found["keep"][optimizer_state.END] != found["reset"][optimizer_state.END]
        assert all(set(losses) == {0, 1, 3, optimizer_state.END} for losses in found.values())


def test_what_is_forgotten():
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer_state.treat("zero momentum", optimizer, [layer.weight])
    assert not optimizer.state[layer.weight]["exp_avg"].any()
    assert optimizer.state[layer.weight]["exp_avg_sq"].all()
    optimizer_state.treat("reset", optimizer, [layer.weight])
    assert layer.weight not in optimizer.state
    assert optimizer.state[layer.bias]["exp_avg"].all()
