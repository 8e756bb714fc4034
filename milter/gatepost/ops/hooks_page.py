"""Makes docs/hooks.md from the table of hooks: `python -m gatepost.ops.hooks_page > docs/hooks.md`."""

from __future__ import annotations

import sys
import textwrap

from gatepost.configuration.returned_verdicts import allowed_names
from gatepost.hooks import EVENTS, HOOKS, Hook

_HEAD = """\
# Hooks

<!-- Made from milter/gatepost/hooks.py by `make docs`; a test keeps the two equal. -->

A plugin takes part in a hook by having a method of its name, `def` or `async def`, with these arguments after `self`;
their names are free. The plugins are asked in the order of the configuration; the first verdict that is not Declined
(or None) ends the hook. [Writing a plugin](writing-a-plugin.md) is the tutorial.

Types, all to be imported from `gatepost`: `session: Session`, `transaction: Transaction`, `recipient: Recipient`,
`sender: Address`, `headers: Headers`, `message: Message`, `reply: Reply`, `verdict: Verdict`. The others are Python's:
`parameters: dict[str, str | None]`, `chunk: bytes`; `name`, `value`, `verb` and `hook` are `str`.

Doors: *edge* hooks run as the client says the command to Postfix, with `[milter] edge = true`; without the edge those
with "else" run later, and the others not at all. *proxy* hooks run while the client says the command; *content* hooks
run at the end of the message, in the order of the table, when Postfix's inner smtpd shows the message to gatepost. A
hook with a content door makes Postfix send each message through the milter; with none loaded that is negotiated away.
"""

_CLOSES = (
    "A plugin that was asked about this {} before is told of its end, also where a login, whitelisting or\n"
    "`PLUGIN=off` for the client or a recipient would leave it out by now: what it has begun it must be able to end."
)

_EVENTS_HEAD = """\
## Process events

Methods without arguments. A plain `def` runs in a thread, so it may read files; `async def` runs on the event loop.
"""


def page() -> str:
    """Return docs/hooks.md."""
    rows = "\n".join(f"| [{hook.name}](#{hook.name}) | {hook.door} | {_arguments(hook)} |" for hook in HOOKS.values())
    table = f"| hook | door | arguments |\n|---|---|---|\n{rows}\n"
    events = "\n".join(f"- `{name}`: {text}" for name, text in EVENTS.items())
    return "\n".join([_HEAD, table, *map(_section, HOOKS.values()), _EVENTS_HEAD, events]) + "\n"


def _arguments(hook: Hook) -> str:
    return ", ".join(f"`{argument}`" for argument in hook.arguments)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _section(hook: Hook) -> str:
    lines = [f"## {hook.name}", "", f"`{hook.name}(self, {', '.join(hook.arguments)})`", "", _paragraph(hook.when)]
    lines.append("")
    if hook.closes:
        lines += [_CLOSES.format(hook.arguments[0]), ""]
    if hook.denied:
        lines += [_paragraph(f"After a denial: {hook.denied}"), ""]
    answers = allowed_names(hook)
    lines.append(f"{answers[0].upper()}{answers[1:]}.")
    if hook.denied and hook.name != "deny":
        codes = f"{hook.soft_code} (DenySoft), {hook.hard_code} (Deny), 421 and 521 (hang-up)"
        lines.append(f"Default reply codes: {codes}.")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
