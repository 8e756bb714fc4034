"""How findings are shown: a line each, or JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from gatepost.errors import EX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.check.examination import Examination
    from gatepost.ops.check.finding import Finding

LINES_PER_FILE = 1000
"""More mistakes than that in one file, and it is another file than was meant: the screen need not have them all."""


def show(examination: Examination, *, as_json: bool) -> int:
    """Print the findings, on stderr unless as JSON, and a summary; return the exit status."""
    if as_json:
        text = json.dumps([finding.plain() for finding in examination.findings], indent=2, ensure_ascii=False)
        # Line by line: with PYTHONUNBUFFERED, Python drops the rest of what a pipe takes only a part of. Up to 4 KiB
        # (PIPE_BUF) it takes all or nothing.
        for line in text.split("\n"):
            print(line)
    else:
        for line in _lines(examination.findings):
            print(line, file=sys.stderr)
        # One order for both streams, also where both are one terminal or one file.
        sys.stderr.flush()
        print(summary(examination), file=sys.stdout if examination.is_good else sys.stderr, flush=True)
    return 0 if examination.is_good else EX_CONFIG


def summary(examination: Examination) -> str:
    """Return the last line: `ok: 2 plugins (aliases, greylist), 1 warning in FILE`, `7 errors, 2 warnings in FILE`."""
    counts = [
        f"{number} {kind}{'s' if number > 1 else ''}"
        for kind in ("error", "warning", "note")
        if (number := examination.count(kind))
    ]
    if examination.is_good:
        number = len(examination.plugins)
        names = f" ({', '.join(examination.plugins)})" if number else ""
        counts.insert(0, f"ok: {number or 'no'} plugin{'' if number == 1 else 's'}{names}")
    return f"{', '.join(counts)} in {examination.source}"


def _lines(findings: tuple[Finding, ...]) -> Iterator[str]:
    shown: Counter[str] = Counter()
    total = Counter(str(finding.file) for finding in findings)
    for finding in findings:
        file = str(finding.file)
        shown[file] += 1
        if shown[file] <= LINES_PER_FILE:
            yield _visible(str(finding))
        elif shown[file] == total[file]:
            yield _visible(f"{file}: and {total[file] - LINES_PER_FILE} more like these")


def _visible(text: str) -> str:
    """Escape what does not print: files hold anything, and a terminal would obey it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
