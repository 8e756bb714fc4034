"""The one table of hooks: when each runs, at which door, with which arguments, and what it may answer.

docs/hooks.md is made from it. A plugin takes part in a hook by having a method of its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gatepost.verdict import Declined, Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Ok

if TYPE_CHECKING:
    from gatepost.verdict import Verdict

Door = Literal["edge", "edge, else proxy", "proxy", "content", "edge close, else expiry", "all"]
"""Where a hook runs: at the earlier of two doors if that one is configured. The edge door is `[milter] edge = true`."""

ANY = frozenset({Declined, Ok, Deny, DenySoft, DenyDisconnect, DenySoftDisconnect})
NOTHING = frozenset({Declined})


@dataclass(frozen=True, slots=True)
class Hook:
    """One row of the table. `arguments` are those after `self`; plugins may name them as they like."""

    name: str
    door: Door
    arguments: tuple[str, ...]
    when: str
    denied: str
    """What a denial here means to the client; empty where nothing can be denied."""
    verdicts: frozenset[type[Verdict]] = ANY
    soft_code: int = 450
    """Default reply code of DenySoft here."""
    hard_code: int = 550
    """Default reply code of Deny here."""
    closes: bool = False
    """True for the hooks at the end of a transaction or session: who was asked about it before is told, even where
    options, a login or whitelisting would leave the plugin out by now. What it has begun it must be able to end."""

    @property
    def reads_content(self) -> bool:
        """True for the hooks that need the message's header or body, and so the milter on the inner smtpd."""
        return self.door == "content"

    def door_with(self, *, edge: bool) -> str:
        """Return where the hook runs with the edge door, or without; "none" if it does not run then."""
        match self.door:
            case "edge":
                return "edge" if edge else "none"
            case "edge, else proxy":
                return "edge" if edge else "proxy"
            case "edge close, else expiry":
                return "edge close" if edge else "expiry"
            case _:
                return self.door


_TABLE = (
    Hook(
        "connect",
        "edge, else proxy",
        ("session",),
        "A client has connected. At the edge: before the banner, session.helo is None. At the proxy: when Postfix "
        "hands over the client's first message, before helo.",
        "At the edge a 5xx makes Postfix say 554 in place of the banner, a 421 that, both in its own words; this reply "
        "comes at MAIL, where DenySoft does, too. At the proxy it is remembered: every recipient of the session is "
        "refused with it; a hang-up comes at MAIL.",
    ),
    Hook(
        "helo",
        "edge, else proxy",
        ("session", "name"),
        "The client's greeting is known, HELO or EHLO. At the edge: at each greeting, also the one after STARTTLS and "
        "one with the same name; which of the two it was is not known there (session.esmtp). It runs once more where "
        "it denied and the client then logs in. One that Postfix itself refuses is not told. At the proxy: right after "
        "connect; session.esmtp tells which.",
        "Remembered until the client greets again: at the edge MAIL is refused with this reply, at the proxy every "
        "recipient is. A 421 comes at once at the edge; any other hang-up, and all at the proxy, at MAIL. The deny "
        "hook runs when the client is refused; not at all, if it logs in or greets better before.",
    ),
    Hook(
        "unrecognized_command",
        "edge",
        ("session", "verb"),
        "The client said what is no command to Postfix; verb is its first word, as it was said.",
        "The client gets this reply in place of Postfix's 500.",
        hard_code=500,
    ),
    Hook(
        "mail",
        "edge, else proxy",
        ("transaction", "sender", "parameters"),
        "MAIL FROM: the sender is known. parameters are the ESMTP ones, names in upper case. One that Postfix itself "
        "refuses at once (syntax, SIZE, smtpd_delay_reject = no) is not told. At the proxy, and only there, a "
        "recipient has passed Postfix's own checks by then.",
        "At the edge MAIL is refused with this reply. At the proxy it is remembered: every recipient of the message "
        "is refused with it; a hang-up comes at MAIL.",
    ),
    Hook(
        "rcpt",
        "proxy",
        ("transaction", "recipient"),
        "RCPT TO, for a recipient that passed Postfix's own checks.",
        "This recipient is refused; the others are not concerned.",
    ),
    Hook(
        "rcpt_refused",
        "edge",
        ("transaction", "recipient", "reply"),
        "Postfix itself has refused the recipient, by its tables, policies and restrictions: recipient.outcome is "
        "refused or deferred, reply says why. Its code is 550 or 450, whatever Postfix's own was, for Postfix does not "
        "tell that; text (without the address) and enhanced status code are Postfix's. Bad syntax, too many recipients "
        "and what another milter refuses are not told. The deny hook follows, too; a hang-up that it answers comes at "
        "the client's next MAIL, unknown command or recipient that Postfix accepts, a 421 at the next HELO, too, and "
        "at the end of the message in place of the inner smtpd's refusal.",
        "",
        NOTHING,
    ),
    Hook(
        "data",
        "proxy",
        ("transaction",),
        "DATA: every recipient is known, the content is not.",
        "The message is refused before it is sent.",
        soft_code=451,
        hard_code=554,
    ),
    Hook(
        "header",
        "content",
        ("transaction", "name", "value"),
        "Each header field, in order. value is unfolded and decoded (RFC 2047) text.",
        "The message is refused; later header fields are not looked at.",
        soft_code=451,
        hard_code=554,
    ),
    Hook(
        "data_headers_end",
        "content",
        ("transaction", "headers"),
        "The end of the header: all fields, exact and decoded.",
        "The message is refused.",
        soft_code=451,
        hard_code=554,
    ),
    Hook(
        "body",
        "content",
        ("transaction", "chunk"),
        "Each piece of the body, in order: bytes with CRLF line ends, at most 64 KiB, cut anywhere.",
        "The message is refused; the rest of the body is not looked at.",
        soft_code=451,
        hard_code=554,
    ),
    Hook(
        "data_post",
        "content",
        ("transaction", "message"),
        "The whole message, to read and to edit.",
        "The message is refused.",
        soft_code=451,
        hard_code=554,
    ),
    Hook(
        "queue_post",
        "proxy",
        ("transaction",),
        "Postfix has queued the message; transaction.queue_id is known.",
        "",
        NOTHING,
        closes=True,
    ),
    Hook(
        "reset_transaction",
        "proxy",
        ("transaction",),
        "The transaction has ended: queued, refused, or given up by the client. Nobody waits for it: where these hooks "
        "are slow, the client's next command may come before they are done.",
        "",
        NOTHING,
        closes=True,
    ),
    Hook(
        "disconnect",
        "edge close, else expiry",
        ("session",),
        "The client's session has ended. At the edge: the client has left and its last message is done. Without: "
        "nothing was heard of it for proxy.session_idle.",
        "",
        NOTHING,
        closes=True,
    ),
    Hook(
        "deny",
        "all",
        ("session", "hook", "verdict"),
        "After a denial by any plugin, or (with the edge) a recipient that Postfix refused, once; in every plugin, "
        "wherever it stands. hook is the denying hook's name, rcpt_refused for Postfix.",
        "The reply is replaced by this one; only a hang-up can be answered.",
        frozenset({Declined, DenyDisconnect, DenySoftDisconnect}),
    ),
    Hook(
        "ok",
        "all",
        ("session", "hook", "verdict"),
        "After a hook that ended without a denial; verdict is Ok or Declined.",
        "",
        NOTHING,
    ),
)

HOOKS: dict[str, Hook] = {hook.name: hook for hook in _TABLE}
"""Every hook by name, in the order in which a message meets them."""

EVENTS = {
    "init": "The daemon starts or has loaded a new configuration with this plugin in it; no arguments.",
    "reload": "This plugin's successor has taken over after SIGHUP; no arguments. Transactions under way still use it.",
    "shutdown": "The daemon ends, after the last message; no arguments.",
}
"""Process events: methods without arguments; plain ones run in a thread. An exception in init stops the start."""
