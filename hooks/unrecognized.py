"""unrecognized: hangs up on a client that keeps saying what is no SMTP command.

A program that is no mail client, a browser or a scanner, says many such things; a mail client says none, or one by
mistake. Postfix has its answer for each (`500 5.5.2 Error: command not recognized`) and hangs up after many errors of
any kind (smtpd_hard_error_limit, 20); this plugin does so sooner, and for these alone.

HOOKS
    unrecognized_command    each command that Postfix does not know. Only with the edge door ([milter] edge = true): the
                            proxy never hears of them. Lines without any word, with bytes that are not UTF-8, and
                            commands that Postfix knows but does not offer (AUTH, STARTTLS) are not told to anybody, and
                            it hangs up itself on CONNECT, GET, POST, on what begins with no letter of A to Z
                            (smtpd_forbidden_commands) and on fields of a header ("Host: ...")

OPTIONS
    limit               4: so many are allowed to one connection; the next one hangs up
    action              "deny_disconnect"; "defer_disconnect" hangs up with 421
    text                "too many unrecognized commands"
    skip_whitelisted    true: a client that is whitelisted may say what it likes

    For one client: `unrecognized.limit=20` in the file of client_options.

NOTES
    session.notes["unrecognized"]["count"] tells other plugins how many there were.

REPLIES
    521 5.5.2 too many unrecognized commands

FAILURE
    None: it needs no service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gatepost import Action, Plugin, PluginOptions, denial

if TYPE_CHECKING:
    from gatepost import Session, Verdict


class Options(PluginOptions):
    """What the manual above says."""

    limit: int = Field(default=4, ge=0)
    action: Action = "deny_disconnect"
    text: str = "too many unrecognized commands"
    skip_whitelisted: bool = True


class Unrecognized(Plugin[Options]):
    """Counts in the session's notes."""

    def unrecognized_command(self, session: Session, verb: str) -> Verdict | None:
        options = self.options(session)
        notes = self.notes(session)
        notes["count"] = notes.get("count", 0) + 1
        return denial(options.action, options.text, enhanced="5.5.2") if notes["count"] > options.limit else None
