import dataclasses
import re

import pytest

from lightning_cosprune.planning.budget import BUDGETS, Limit, parse_budget, parse_limit


@pytest.mark.parametrize(
    ("cost", "given", "at_most", "relative"),
    [
        ("macs", "30 MMACs", 30e6, False),
        ("macs", "30MMAC", 30e6, False),
        ("macs", "1.5 G", 1.5e9, False),
        ("macs", 30_000_000, 30e6, False),
        ("macs", 3e7, 3e7, False),
        ("macs", "5,370,000", 5.37e6, False),
        ("macs", "3e7 MACs", 3e7, False),
        ("params", "100 k", 1e5, False),
        ("params", "0.128 M parameters", 128_000, False),
        ("params", 0.4, 0.4, True),
        ("params", "40 %", 0.4, True),
        ("params", "0.4", 0.4, True),
        ("params", 1, 1, False),
        ("bytes", "128 kB", 128_000, False),
        ("bytes", "128 KB", 128_000, False),
        ("bytes", "128 KiB", 131_072, False),
        ("bytes", "64000 bytes", 64_000, False),
        ("bytes", 64_000, 64_000, False),
        ("latency", 0.6, 0.6, True),
        ("latency", "60%", 0.6, True),
    ],
)
def test_what_a_limit_means(cost, given, at_most, relative):
    assert parse_limit(cost, given, "plan_pruning") == Limit(cost, at_most, relative)


@pytest.mark.parametrize(
    ("cost", "given"),
    [
        ("macs", 0),
        ("macs", -3),
        ("macs", 1.0),
        ("macs", 1.5),
        ("macs", True),
        ("macs", "30 kB"),
        ("macs", "a lot"),
        ("macs", "30 KiMACs"),
        ("macs", float("nan")),
        ("macs", [3]),
        ("params", "0 %"),
        ("params", "100 %"),
        ("params", "1.5"),
        ("bytes", "128 k"),
        ("bytes", "128 kbit"),
        ("latency", 20),
        ("latency", "20 ms"),
    ],
)
def test_what_is_no_limit_is_refused_with_what_to_write(cost, given):
    written = re.escape(f"`plan_pruning(max_{cost}={given!r})`: expected a ")
    with pytest.raises(ValueError, match=f"{written}.*between 0 and 1, or a string such as .*write 0.4"):
        parse_limit(cost, given, "plan_pruning")


def test_units_of_a_limit():
    assert Limit("macs", 0.4, True).units(1001) == 400
    assert Limit("params", 0.3, True).units(10) == 3  # 3/10 of 10 is 3, though a hair below in binary
    assert Limit("latency", 0.6, True).units(0.01) == pytest.approx(0.006)


def test_presets_have_their_years_rule_and_a_limit_of_ones_own_overrules():
    assert parse_budget("plan_pruning", budget="dcase2021").limits == (Limit("bytes", 128_000),)
    in_2022 = parse_budget("plan_pruning", budget="dcase2022")
    assert in_2022.limits == (Limit("macs", 30e6), Limit("params", 128_000))
    assert in_2022.deployed_as == "int8"
    for year in ("dcase2024", "dcase2025"):
        found = parse_budget("plan_pruning", budget=year, deployed_as="float16")
        assert found.limits == (Limit("macs", 30e6), Limit("bytes", 128_000))
        assert not found.buffers
        assert found.deployed_as == "float16"
    assert all(preset.source for preset in BUDGETS.values())
    own = parse_budget("plan_pruning", budget="dcase2024", max_macs="10 M")
    assert own.limits == (Limit("macs", 10e6), Limit("bytes", 128_000))
    assert not parse_budget("plan_pruning")


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match=r"budget='dcase2019'.*expected 'dcase2021' or"):
        parse_budget("plan_pruning", budget="dcase2019")
    with pytest.raises(ValueError, match=r"deployed_as='fp16'.*expected 'float64' or"):
        parse_budget("plan_pruning", deployed_as="fp16")


def test_the_rule_of_a_year_cannot_be_changed():
    for rule in (BUDGETS["dcase2021"], BUDGETS["dcase2021"].limits[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(rule, dataclasses.fields(rule)[0].name, None)
