"""Makes docs/plugins.md from the manuals that open the bundled plugins: `python -m gatepost.ops.plugins_page`."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatepost.configuration.loader import bundled_directory

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = """\
# Bundled plugins

<!-- Made from the manuals in hooks/*.py by `make docs`; a test keeps the two equal. -->

Each is one file in [hooks/](../hooks) that opens with its manual; copy one to your own directory to change it, yours
wins. Beside its own options every plugin takes `mode`, `timeout`, `on_error`, `on_timeout`, `on_unavailable`,
`skip_authenticated`, `skip_whitelisted` and `log_level`, which [the sample configuration](samples/gatepost.toml)
explains.

## Options of one client or recipient

Any option can be another for one client or sender domain, in the file of [client_options](#client_options), and for one
recipient, in that of [aliases](#aliases); the recipient's wins. An option that its manual calls the same for everybody
cannot. Options stand with commas between them:

| written | means |
|---|---|
| `greylist=off`, `greylist=observe` | the plugin's mode |
| `greylist` | `greylist=enforce`, also where the configuration says `"off"` or `"observe"` |
| `greylist.black_timeout=5m` | an option; no quotes around the value |
| `greylist.deny_late` | `greylist.deny_late=true` |
| `clamav.ignore="PUA.*, Heuristics.*"` | a value with commas, such as a list, stands in double quotes; `""` is empty |
| `denysoft_greylist`, `greylist_black_timeout=5m` | qpsmtpd's words for `greylist`, `greylist.black_timeout=5m` |

A word for a plugin that is not loaded does nothing, which `gatepost check` tells; a misspelt one is an error.

## The plugins
"""


@dataclass(frozen=True, slots=True)
class Manual:
    """A plugin's manual: the sentence after its name, the paragraphs that follow, and the sections (HOOKS, ...)."""

    name: str
    summary: str
    text: str
    sections: str

    @classmethod
    def read(cls, file: Path) -> Manual:
        """Take the docstring that opens `file`; ValueError if it does not begin with the plugin's name."""
        docstring = ast.get_docstring(ast.parse(file.read_bytes())) or ""
        name, colon, rest = docstring.partition(": ")
        if not colon or name != file.stem:
            raise ValueError(f"{file}: the manual must begin with {file.stem!r} and a colon")
        head, heading, sections = re.split(r"^(HOOKS\n)", rest, maxsplit=1, flags=re.MULTILINE)
        summary, _, text = head.partition("\n\n")
        return cls(name, " ".join(summary.split()), text.strip(), textwrap.dedent(heading + sections).rstrip())


def page() -> str:
    """Return docs/plugins.md."""
    manuals = [Manual.read(file) for file in sorted(bundled_directory().glob("*.py"))]
    rows = "\n".join(f"| [{manual.name}](#{manual.name}) | {_markdown(manual.summary)} |" for manual in manuals)
    table = f"| plugin | what it does |\n|---|---|\n{rows}\n"
    return "\n".join([_HEAD, table, *map(_section, manuals)])


def _section(manual: Manual) -> str:
    summary = _markdown(manual.summary[:1].upper() + manual.summary[1:])
    lines = [f"## {manual.name}", "", f"{summary} [Its file](../hooks/{manual.name}.py).", ""]
    if manual.text:
        lines += [_markdown(manual.text), ""]
    # A manual is laid out by hand, in columns; the page keeps that.
    return "\n".join([*lines, "```text", manual.sections, "```", ""])


def _markdown(text: str) -> str:
    """Return plain text so that Markdown shows it as it is; `names` in it become code."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if piece[:1] == "`" else re.sub(r"([\\`*_<>|\[\]])", r"\\\1", piece) for piece in pieces)


if __name__ == "__main__":
    sys.stdout.write(page())
