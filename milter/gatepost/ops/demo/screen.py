"""How the demo looks: dialogues in colours on a terminal, the same words plainly elsewhere, never over 100 columns."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.demo.dialogue import Side

_COLUMNS: Final = 100
_STYLES: Final[dict[Side, str]] = {"C": "cyan", "S": "green"}
_REFUSED: Final = "yellow"
_TICK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the demo shows: the rule, by its plugin's name, what should come of it, and what came."""

    rule: str
    title: str
    expected: str
    got: str
    ok: bool

    def __str__(self) -> str:
        """Return a step that went wrong on one line."""
        return f"{self.rule}: {self.title}: expected {self.expected}, got {self.got}"


class Screen:
    """Standard output. Every line is there at once, also in a pipe."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
        if self._console.width > _COLUMNS or not self._console.is_terminal:
            self._console.width = _COLUMNS
        plain = not self._console.encoding.lower().startswith("utf")
        self._marks = ("ok", "FAILED") if plain else ("✓", "✗")

    def say(self, text: str = "", style: str = "") -> None:
        """Print a paragraph, filled."""
        self._console.print(Text(text, style=style))

    def literal(self, text: str, style: str = "") -> None:
        """Print lines that are to be copied, unbroken however long they are."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def scene(self, title: str, file: str, rule: str) -> None:
        """Open a scene: its title, the rule that it shows, and the file in which the rule is written."""
        self._console.print()
        self._console.print(Rule(Text(title, style="bold"), align="left", style="dim"))
        self._console.print(Text.assemble((rule + " ", ""), (f"({file})", "dim")))

    def actor(self, text: str) -> None:
        """Say who speaks in the dialogue that follows."""
        self._console.print()
        self._console.print(Padding(Text(text, style="dim"), (0, 0, 0, 2), expand=False))

    def line(self, side: Side, text: str) -> None:
        """Show one line of a dialogue."""
        refused = side == "S" and text[:1] in {"4", "5", "("}
        self._indented(f"{side}: ", text, _REFUSED if refused else _STYLES[side])

    def quotation(self, text: str, emphasised: str) -> None:
        """Show lines of a message; those that contain `emphasised` stand out."""
        for line in text.splitlines():
            self._indented("| ", line.expandtabs(4), "bold magenta" if emphasised in line else "")

    def _indented(self, prefix: str, text: str, style: str) -> None:
        """Print a line below its prefix if it has to be broken."""
        grid = Table.grid()
        grid.add_column(width=2 + len(prefix), no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(f"  {prefix}", style="bold dim" if style else "dim"), Text(text, style=style))
        self._console.print(grid)

    def step(self, step: Step) -> None:
        """Tell whether the step went as expected."""
        mark = self._marks[0 if step.ok else 1]
        text = f"{mark} {step.title}" if step.ok else f"{mark} {step.title}: expected {step.expected}, got {step.got}"
        self._console.print(
            Padding(Text(text, style="bold green" if step.ok else "bold red"), (0, 0, 0, 2), expand=False)
        )

    def summary(self, steps: list[Step]) -> None:
        """Print the table of all steps."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        table.add_column("rule", no_wrap=True)
        table.add_column("step", overflow="fold")
        table.add_column("expected", overflow="fold")
        table.add_column("got", overflow="fold")
        table.add_column("ok", justify="center", min_width=len(max(self._marks, key=len)))
        for step in steps:
            style = "green" if step.ok else "bold red"
            mark = Text(self._marks[0 if step.ok else 1], style=style)
            table.add_row(step.rule, step.title, step.expected, Text(step.got, style=style), mark)
        self._console.print()
        self._console.print(table)

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[None]:
        """Show that something takes its time: a spinner on a terminal, else a line."""
        if not self._console.is_terminal:
            self.say(f"{text} ...")
            yield
            return
        with self._console.status(Text(text)):
            yield
        self.say(f"{text}: done", "dim")

    def wait(self, text: str, until: float) -> None:
        """Wait until that moment of `time.monotonic()`, with a countdown on a terminal."""
        if not self._console.is_terminal:
            self.say(f"  ({text}: {max(until - time.monotonic(), 0):.0f} s)")
            time.sleep(max(until - time.monotonic(), 0))
            return
        with self._console.status("") as status:
            while (left := until - time.monotonic()) > 0:
                status.update(Text(f"{text}: {left:.1f} s"))
                time.sleep(min(left, _TICK_S))
