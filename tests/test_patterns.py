r"""Regular expressions do without what Debian 12's Python 3.11.2 gets wrong.

A possessive group, `(?:X)*+`, takes there what its last, failed round had gone through (CPython gh-100061, corrected in
3.11.5). The atomic `(?>(?:X)*)` means the same and is right, and so is a possessive single character, `[ab]*+`.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{\d*,?\d*\})\+")


def test_no_group_is_possessive() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("milter", "hooks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if POSSESSIVE_GROUP.search(line)
    ]
    assert found == []
