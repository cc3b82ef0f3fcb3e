import json

import numpy as np
import numpy1_orders
import pytest

from lightning_cosprune.ranking import introsort

RECORDED = json.loads(numpy1_orders.RECORDS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", numpy1_orders.FAMILIES)
def test_order_is_the_one_numpy_1_left(family):
    assert RECORDED["numpy"].startswith("1.")
    found = "".join(
        numpy1_orders.fingerprint(introsort.numpy1_argsort(values)) for values in numpy1_orders.arrays(family)
    )
    assert found == RECORDED[family]


def test_recorded_arrays_reach_the_heapsort(monkeypatch):
    called = []
    heapsort = introsort._heapsort
    monkeypatch.setattr(introsort, "_heapsort", lambda *args: called.append(heapsort(*args)))
    introsort.numpy1_argsort(numpy1_orders.pipe(600, 1))
    assert called


@pytest.mark.parametrize("size", [0, 1, 2, 15, 16])
def test_up_to_16_values_are_sorted_stably(size):
    values = numpy1_orders.noise(size, 3)
    assert introsort.numpy1_argsort(values) == np.argsort(values, kind="stable").tolist()


def test_beyond_16_values_equal_ones_change_places():
    assert introsort.numpy1_argsort([0.0] * 17) != list(range(17))
