"""count_denies: hangs up on a client that keeps being refused.

HOOKS
    deny        after every denial, by whichever plugin; with the edge door also after every recipient that Postfix
                itself refused, so that a dictionary attack is hung up on

OPTIONS
    limit               4: so many refusals are allowed to one connection; the next one hangs up
    count               "permanent": only refusals for good (5xx) count; "all": those for now (4xx) count, too
    skip_whitelisted    true: refusals of a client, sender or recipient that is whitelisted do not count

REPLIES
    521 too many refused commands
    421 too many refused commands   when the last refusal was one for now, or Postfix's own, after which it stands in
                                    place of another command's reply: what nobody has refused must not be lost for good

    After a recipient that Postfix refused, with its own reply, the hang-up comes at the client's next MAIL, unknown
    command or recipient that Postfix accepts, or in place of the refusal of its message: Postfix listens to no milter
    about what it refuses itself. Who does nothing but guess recipients, in one message, is hung up on by Postfix, after
    smtpd_hard_error_limit (20) errors. Keep that above the number of recipients that greylist and its like may defer in
    one message: they count there, too. `karma` with at = "connect" keeps such a client away when it comes again.

FAILURE
    None: it needs no service.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gatepost import DenyDisconnect, DenySoftDisconnect, Plugin, PluginOptions, Session, Verdict


class Options(PluginOptions):
    """What the manual above says."""

    limit: int = Field(default=4, ge=0)
    count: Literal["permanent", "all"] = "permanent"
    skip_whitelisted: bool = True


class CountDenies(Plugin[Options]):
    """Counts in the session's notes."""

    def deny(self, session: Session, hook: str, verdict: Verdict) -> DenyDisconnect | DenySoftDisconnect | None:
        options = self.options(session)
        if options.count == "permanent" and not verdict.permanent:
            return None
        notes = self.notes(session)
        notes["denied"] = notes.get("denied", 0) + 1
        if notes["denied"] <= options.limit:
            return None
        hang_up = DenyDisconnect if verdict.permanent else DenySoftDisconnect
        return hang_up("too many refused commands")
