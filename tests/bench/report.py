"""From rounds to a verdict: medians, ratios to the baseline, and whether a target is missed. Reads no clock.

A ratio is taken within each round, against the baseline of the same round, and the median of these counts: whatever
slows the machine for a while slows both, and one disturbed round changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.bench.variant import BASELINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.variant import Variant

NOISE_ALLOWANCE = 0.05
"""How far below its target a ratio may be without being called missed. Two equal variants (`control`) were seen to
differ by up to 3 % over five rounds on an idle machine with two cores; on one that does other work, by more."""


@dataclass(frozen=True, slots=True)
class Round:
    """One variant, once: so many messages in so many seconds; CPU is the daemon's, 0 where there is none."""

    variant: str
    messages: int
    seconds: float
    cpu_s: float = 0.0
    main_cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


@dataclass(frozen=True, slots=True)
class Result:
    """A variant over all rounds."""

    variant: Variant
    rate: float
    ratio: float | None
    """The median of the rounds' ratios to the baseline; None without a baseline, and for the baseline itself."""
    ratios: tuple[float, ...]
    cpu_ms: float | None
    """CPU milliseconds of the daemon per message; None where there is no daemon."""
    main_cpu_ms: float | None
    peak_rss_bytes: int | None
    against_ratio: float | None = None
    """As `ratio`, but to `variant.against`; None where that is empty or was not measured."""

    def missed(self, allowance: float) -> bool:
        """Whether the ratio is below the target by more than `allowance`; never where nothing is asked for."""
        return (
            self.ratio is not None and self.variant.target is not None and self.ratio < self.variant.target - allowance
        )

    def verdict(self, allowance: float) -> str:
        """`ok`, `ok within noise`, `missed`, or empty where nothing is asked for."""
        if self.ratio is None or self.variant.target is None:
            return ""
        if self.missed(allowance):
            return "missed"
        return "ok within noise" if self.missed(0.0) else "ok"

    def as_json(self, allowance: float) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "variant": self.variant.name,
            "about": self.variant.about,
            "messages_per_second": round(self.rate, 1),
            "ratio": self.ratio and round(self.ratio, 4),
            "ratios": [round(ratio, 4) for ratio in self.ratios],
            "against": self.variant.against or None,
            "ratio_against": self.against_ratio and round(self.against_ratio, 4),
            "target": self.variant.target,
            "verdict": self.verdict(allowance),
            "cpu_ms_per_message": self.cpu_ms and round(self.cpu_ms, 3),
            "main_thread_cpu_ms_per_message": self.main_cpu_ms and round(self.main_cpu_ms, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
        }


def summarise(
    variants: Sequence[Variant], rounds: Sequence[Sequence[Round]], peak_rss_bytes: Mapping[str, int]
) -> list[Result]:
    """Return a result for each variant; every element of `rounds` has each variant once, in any order."""
    by_round = [{one.variant: one for one in several} for several in rounds]
    results = []
    for variant in variants:
        mine = [several[variant.name] for several in by_round]
        ratios = _ratios(by_round, variant.name, BASELINE) if variant.name != BASELINE else ()
        against = _ratios(by_round, variant.name, variant.against)
        has_daemon = variant.plugins is not None
        results.append(
            Result(
                variant,
                rate=median(one.rate for one in mine),
                ratio=median(ratios) if ratios else None,
                ratios=ratios,
                cpu_ms=median(one.cpu_s / one.messages * 1000 for one in mine) if has_daemon else None,
                main_cpu_ms=median(one.main_cpu_s / one.messages * 1000 for one in mine) if has_daemon else None,
                peak_rss_bytes=peak_rss_bytes.get(variant.name),
                against_ratio=median(against) if against else None,
            )
        )
    return results


def _ratios(by_round: Sequence[Mapping[str, Round]], name: str, other: str) -> tuple[float, ...]:
    """Return each round's ratio of one variant's rate to the other's; empty if the other was not measured."""
    if not all(other in several for several in by_round):
        return ()
    return tuple(several[name].rate / several[other].rate for several in by_round)


def noise(results: Sequence[Result]) -> float | None:
    """Return how far the control's ratio is from 1; None when it was not measured."""
    return next(
        (abs(result.ratio - 1) for result in results if result.variant.name == "control" and result.ratio is not None),
        None,
    )


def table(results: Sequence[Result], allowance: float) -> list[str]:
    """Return the results as lines of text, a heading first."""
    lines = ["variant     msg/s  ratio  lowest-highest  target  CPU ms/msg  loop ms/msg  peak MiB  verdict"]
    for one in results:
        limits = f"{min(one.ratios):.2f}-{max(one.ratios):.2f}" if one.ratios else ""
        mebibytes = "" if one.peak_rss_bytes is None else f"{one.peak_rss_bytes / 2**20:.0f}"
        lines.append(
            f"{one.variant.name:9} {one.rate:7.0f} {_two(one.ratio):>6} {limits:>15} {_two(one.variant.target):>7}"
            f" {_two(one.cpu_ms):>11} {_two(one.main_cpu_ms):>12} {mebibytes:>9}  {one.verdict(allowance)}".rstrip()
        )
    for one in results:
        against = "" if one.against_ratio is None else f": {one.against_ratio:.2f} of the rate of {one.variant.against}"
        lines.append(f"{one.variant.name:9} is {one.variant.about}{against}")
    return lines


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
