"""The benchmark's arithmetic: what counts as a ratio, and what as a miss."""

from __future__ import annotations

import pytest
from tests.bench.report import NOISE_ALLOWANCE, Result, Round, noise, summarise, table
from tests.bench.variant import BASELINE, VARIANTS, Variant

ALONE = Variant(BASELINE, "", None, None)
CONTROL = Variant("control", "", None, None)
FAST = Variant("fast", "", 1.00, "")


def result(ratio: float) -> Result:
    return summarise([ALONE, FAST], [[Round(BASELINE, 100, 1.0), Round("fast", 100, 1.0 / ratio)]], {})[1]


def test_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    rounds = [
        [Round(BASELINE, 100, 1.0), Round("fast", 100, 1.25)],
        # A slow moment of the whole machine leaves the ratio as it is,
        [Round(BASELINE, 100, 4.0), Round("fast", 100, 5.0)],
        # and a moment that hit one variant only is one round of three.
        [Round(BASELINE, 100, 1.0), Round("fast", 100, 10.0)],
    ]
    alone, fast = summarise([ALONE, FAST], rounds, {})
    assert alone.ratio is None
    assert fast.ratio == pytest.approx(0.8)
    assert fast.ratios == pytest.approx((0.8, 0.8, 0.1))
    assert fast.rate == pytest.approx(20.0)


def test_cpu_is_told_per_message_and_only_where_there_is_a_daemon() -> None:
    rounds = [[Round(BASELINE, 200, 1.0), Round("fast", 200, 1.0, cpu_s=0.1, main_cpu_s=0.08)]]
    alone, fast = summarise([ALONE, FAST], rounds, {"fast": 1 << 20})
    assert (alone.cpu_ms, alone.peak_rss_bytes) == (None, None)
    assert fast.cpu_ms == pytest.approx(0.5)
    assert fast.main_cpu_ms == pytest.approx(0.4)
    assert fast.peak_rss_bytes == 1 << 20


@pytest.mark.parametrize(
    ("ratio", "allowance", "verdict"),
    [
        (1.01, 0.0, "ok"),
        (0.99, 0.0, "missed"),
        (0.99, NOISE_ALLOWANCE, "ok within noise"),
        (0.99 - NOISE_ALLOWANCE, NOISE_ALLOWANCE, "missed"),
    ],
)
def test_a_target_is_missed_only_beyond_the_allowance(ratio: float, allowance: float, verdict: str) -> None:
    assert result(ratio).verdict(allowance) == verdict
    assert result(ratio).missed(allowance) == (verdict == "missed")


def test_the_baseline_can_miss_nothing() -> None:
    (alone,) = summarise([ALONE], [[Round(BASELINE, 100, 1.0)]], {})
    assert not alone.missed(0.0)
    assert alone.verdict(0.0) == ""


def test_noise_is_what_two_equal_variants_differ_by() -> None:
    rounds = [[Round(BASELINE, 100, 1.0), Round("control", 100, 1.25)]]
    assert noise(summarise([ALONE, CONTROL], rounds, {})) == pytest.approx(0.2)
    assert noise(summarise([ALONE], [[Round(BASELINE, 100, 1.0)]], {})) is None


def test_a_variant_that_is_compared_with_another_gets_its_ratio_to_that_within_each_round() -> None:
    door = Variant("door", "", None, "", edge=True, against="fast")
    rounds = [
        [Round(BASELINE, 100, 1.0), Round("fast", 100, 2.0), Round("door", 100, 4.0)],
        [Round(BASELINE, 100, 1.0), Round("fast", 100, 3.0), Round("door", 100, 6.0)],
    ]
    assert [one.against_ratio for one in summarise([ALONE, FAST, door], rounds, {})] == [None, None, pytest.approx(0.5)]
    assert table(summarise([ALONE, FAST, door], rounds, {}), 0.0)[-1].endswith("0.50 of the rate of fast")
    without = [[Round(BASELINE, 100, 1.0), Round("door", 100, 4.0)]]
    assert summarise([ALONE, door], without, {})[1].against_ratio is None


def test_every_way_through_gatepost_has_a_target_but_those_with_the_edge_which_have_a_counterpart_without() -> None:
    by_name = {variant.name: variant for variant in VARIANTS}
    without_target = [variant for variant in VARIANTS if variant.plugins is not None and variant.target is None]
    assert [variant.edge for variant in without_target] == [True] * 2
    for variant in without_target:
        other = by_name[variant.against]
        assert (other.plugins, other.files, other.edge) == (variant.plugins, variant.files, False)
