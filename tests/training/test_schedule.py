import pytest

from lightning_cosprune import CosineFilterPruning
from lightning_cosprune.training.schedule import Schedule, parse_schedule


def test_steps_come_at_their_epochs():
    schedule = Schedule((1, 3, 4))
    assert [schedule.steps_due(epoch) for epoch in range(6)] == [0, 1, 1, 2, 3, 3]


def test_linear_goes_in_equal_steps():
    schedule = Schedule((0, 5, 6, 9))
    assert [schedule.share(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_cubic_is_that_of_zhu_and_gupta():
    schedule = Schedule(tuple(range(0, 20, 2)), "cubic")
    start, span = -2, 20  # one step before the first nothing has gone
    for step, epoch in enumerate(schedule.epochs, start=1):
        expected = 1 - (1 - (epoch - start) / span) ** 3  # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3
        assert schedule.share(step) == pytest.approx(expected)
    assert schedule.share(1) > 0.27
    assert schedule.share(10) == 1


@pytest.mark.parametrize(
    ("at_epoch", "epochs"),
    [
        (3, (3,)),
        ([0, 4], (0, 4)),
        (range(1, 9, 3), (1, 4, 7)),
        ({"stop": 3}, (0, 1, 2)),
        ({"start": 2, "stop": 10, "every": 2}, (2, 4, 6, 8)),
    ],
)
def test_what_the_arguments_mean(at_epoch, epochs):
    assert parse_schedule(at_epoch, "linear", "f") == Schedule(epochs)


@pytest.mark.parametrize(
    "at_epoch",
    [
        -1,
        1.5,
        True,
        "3",
        [],
        [3, 1],
        [1, 1],
        [-1, 2],
        [1, 2.5],
        {"start": 2},
        {"stop": 4, "step": 2},
        {"stop": 4, "every": 0},
        {"stop": 0},
    ],
)
def test_what_makes_no_schedule_is_refused(at_epoch):
    with pytest.raises(ValueError, match=r"`CosineFilterPruning\(at_epoch="):
        CosineFilterPruning(at_epoch=at_epoch)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r'schedule=\'square\'\)`: expected "linear" or "cubic"'):
        CosineFilterPruning(schedule="square")
