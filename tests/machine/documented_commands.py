"""What a page of documentation tells its reader to do: the files to write and the commands to type, in their order.

A block fenced as `sh` holds commands. A block whose lead-in is a path and a colon, such as "`/etc/gatepost/aliases`:",
is that file; after "Add to" it is its end.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine.machine import Machine

_BLOCK: Final = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LEAD_IN: Final = re.compile(r"(?P<more>Add to )?`(?P<path>/[^`\s]+)`(?: \([^)]*\))?:\n\n\Z")


@dataclass(frozen=True, slots=True)
class FileToWrite:
    """A file that the page shows whole, or with `at_end` only what is to be added to it."""

    path: str
    text: str
    heading: str
    at_end: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command, continuation lines included; `heading` is the section that it stands in."""

    text: str
    heading: str


Step = FileToWrite | Command


def steps(page: str) -> Iterator[Step]:
    """Yield what the Markdown text `page` tells its reader to do."""
    for block in _BLOCK.finditer(page):
        before = page[: block.start()]
        heading = re.findall(r"^#+ (.*)$", re.sub(_BLOCK, "", before), re.MULTILINE)[-1]
        if block["language"] == "sh":
            for command in re.split(r"(?<!\\)\n", block["text"].strip()):
                yield Command(command, heading)
        elif lead_in := _LEAD_IN.search(before):
            yield FileToWrite(lead_in["path"], block["text"], heading, bool(lead_in["more"]))


def perform(machine: Machine, step: Step) -> None:
    """Do what the page says; AssertionError if that fails."""
    if isinstance(step, FileToWrite):
        path = shlex.quote(step.path)
        write = ">>" if step.at_end else ">"
        machine.run(f"mkdir -p $(dirname {path}) && cat {write}{path} <<'END OF FILE'\n{step.text}END OF FILE")
        return
    command = step.text
    if command.startswith("make "):
        # With the interpreter that made .venv, and not the whole suite, of which this is a part.
        settings = {name: os.environ[name] for name in ("PATH", "PYTHON") if name in os.environ}
        settings["PYTEST_ARGS"] = "-q -p no:cacheprovider tests/test_verdict.py"
        command = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items()) + f" {command}"
    machine.run(command, timeout_s=300, internet="pip install" in command)


def commands_outside(page: str, words: frozenset[str]) -> list[str]:
    """Return lines that begin with one of `words`, a program's name, in blocks that are not fenced as `sh`."""
    found = []
    for block in _BLOCK.finditer(page):
        if block["language"] != "sh":
            lines = (line.removeprefix("# ").removeprefix("$ ") for line in block["text"].splitlines())
            found += [line for line in lines if line.split(" ")[0] in words]
    return found
