"""`make bench`: messages per second through gatepost, as a ratio to Postfix alone. README.md tells how to read it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that `tests.bench` has the same name here as under pytest

from tests.bench import profile_report
from tests.bench.report import NOISE_ALLOWANCE, Result, Round, noise, summarise, table
from tests.bench.rig import LENGTH_BYTES, SESSIONS, BenchError, Rig
from tests.bench.variant import BASELINE, VARIANTS, Variant

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP_MESSAGES = 200
"""Two hundred connections: smtpd processes are forked, inner connections open, caches full."""

ROUND_S = 3.0
"""How long the baseline's round is to take, when --messages does not say how many."""


def main() -> int:
    """Return 0 when every target is reached, 1 when one is missed, 2 when nothing could be measured."""
    options = _options()
    # So that Postfix and the daemons are ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    variants = _chosen(options.only)
    try:
        results = _measure(variants, options)
    except (BenchError, ConfigError) as error:
        print(f"bench: {error}", file=sys.stderr)  # noqa: T201
        return 2
    allowance = 0.0 if options.strict else NOISE_ALLOWANCE
    for line in table(results, allowance):
        _say(line)
    missed = [result.variant.name for result in results if result.missed(allowance)]
    for line in _remarks(results, allowance, missed):
        _say(line)
    if options.json is not None:
        options.json.write_text(json.dumps(_document(results, options, allowance), indent=2) + "\n")
    # Under a profiler the ratios say nothing about the daemon.
    return 1 if missed and not options.profile else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every variant (default 5)")
    parser.add_argument("--messages", type=int, help=f"messages per round (default: {ROUND_S:g} s of the baseline)")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        help="only this, what it is compared with, and the baseline; repeatable",
    )
    parser.add_argument("--strict", action="store_true", help=f"no allowance for noise (else {NOISE_ALLOWANCE:.2f})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), help="event loop (default: uvloop where installed)")
    parser.add_argument("--profile", action="store_true", help="daemons under cProfile; print where their time goes")
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="where to work (%(default)s)"
    )
    options = parser.parse_args()
    if options.rounds < 1 or (options.messages is not None and options.messages < SESSIONS):
        parser.error(f"--rounds must be 1 or more, --messages {SESSIONS} or more")
    return options


def _chosen(only: Sequence[str] | None) -> list[Variant]:
    against = {variant.against for variant in VARIANTS if variant.name in (only or ())}
    return [variant for variant in VARIANTS if not only or variant.name in {BASELINE, *only, *against}]


def _measure(variants: Sequence[Variant], options: argparse.Namespace) -> list[Result]:
    _say(f"starting Postfix and {sum(variant.plugins is not None for variant in variants)} daemons ...")
    with Rig(variants, options.directory, loop=options.loop, profile=options.profile) as rig:
        rates = {variant.name: rig.warm_up(variant.name, WARM_UP_MESSAGES) for variant in variants}
        messages = options.messages or max(SESSIONS, int(rates[BASELINE] * ROUND_S))
        _say(f"{options.rounds} rounds of {messages} messages of {LENGTH_BYTES} bytes, {SESSIONS} sessions at a time")
        rounds = [
            [_one(rig, variant, messages, number) for variant in variants] for number in range(1, options.rounds + 1)
        ]
        results = summarise(variants, rounds, rig.peak_rss_bytes())
        rig.check_counts()
        if options.profile:
            for variant, profile, sent in rig.profiles():
                _say(f"\n=== {variant.name}: {variant.about}\n{profile_report.text(profile, sent)}")
        return results


def _one(rig: Rig, variant: Variant, messages: int, number: int) -> Round:
    done = rig.round(variant.name, messages)
    _say(f"round {number}  {variant.name:9} {done.rate:6.0f} messages/s  {done.seconds:5.2f} s")
    return done


def _remarks(results: Sequence[Result], allowance: float, missed: Sequence[str]) -> list[str]:
    lines = []
    error = noise(results)
    if error is not None:
        busy = "; the machine is too busy for a verdict, run it again" if error > NOISE_ALLOWANCE else ""
        lines.append(f"noise: two equal variants differ by {error:.1%} in this run{busy}")
    lines.append(f"missed: more than {allowance:.2f} below the target" if allowance else "missed: below the target")
    lines.append(f"MISSED: {', '.join(missed)}" if missed else "no target is missed")
    return lines


def _document(results: Sequence[Result], options: argparse.Namespace, allowance: float) -> dict[str, object]:
    return {
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "loop": options.loop or ("uvloop" if importlib.util.find_spec("uvloop") else "asyncio"),
        "rounds": options.rounds,
        "sessions": SESSIONS,
        "length_bytes": LENGTH_BYTES,
        "allowance": allowance,
        "noise": noise(results),
        "results": [result.as_json(allowance) for result in results],
    }


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
