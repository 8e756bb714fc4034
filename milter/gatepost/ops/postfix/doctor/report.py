"""What the doctor prints: one block a finding, in colours on a terminal, or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.finding import Finding

_STYLES = {"finding": "bold red", "note": "bold yellow"}


def show(facts: Examination, found: Sequence[Finding]) -> None:
    """Print the findings, and what is to be done after the commands."""
    console = Console(soft_wrap=True, highlight=False)
    for one in found:
        console.print(*_block(one), sep="\n")
    console.print(_summary(facts, found))
    if any(one.command.startswith(("postconf", "gatepost postfix")) for one in found):
        console.print(Text(f"Postfix takes a change over by: {facts.remedies.reload_postfix()}"))


def _block(one: Finding) -> Iterator[Text]:
    yield Text.assemble((one.severity, _STYLES[one.severity]), "  ", (f"{one.service}  {one.parameter}", "bold"))
    yield Text(f"    {_printable(one.problem)}")
    yield Text(f"    remedy: {_printable(one.remedy)}")
    yield Text.assemble("    run: ", (_printable(one.command), "cyan"))
    yield Text("")


def _printable(text: str) -> str:
    r"""Main.cf may hold bytes that are no UTF-8: these are shown as `\udcff`."""
    return text.encode(errors="backslashreplace").decode()


def _summary(facts: Examination, found: Sequence[Finding]) -> Text:
    findings = sum(one.severity == "finding" for one in found)
    notes = len(found) - findings
    looked_at = ", ".join(one.key for one in (*facts.fronts, *facts.misplaced)) or "no front"
    counted = " and ".join(
        f"{count} {word}{'s' if count != 1 else ''}"
        for count, word in ((findings, "finding"), (notes, "note"))
        if count
    )
    return Text(
        f"{facts.configuration.directory}: {looked_at}, inner {facts.inner_key}: {counted or 'nothing to mend'}"
    )
