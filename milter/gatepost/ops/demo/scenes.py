"""The scenes, in order: each speaks SMTP with the private Postfix and says what should have come of it.

They go on after a step that fails, so that a plugin that is missing costs its own steps and no others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gatepost.configuration.loader import bundled_directory
from gatepost.ops.demo.dialogue import Client, Dialogue, Letter, Reply
from gatepost.ops.demo.files import BLACK_TIMEOUT_S, DOMAIN, SIGNATURE
from gatepost.ops.demo.screen import Screen, Step

if TYPE_CHECKING:
    from gatepost.ops.demo.plugin_set import PluginSet
    from gatepost.ops.private_postfix import PrivatePostfix

_STRANGER: Final = Client("mail.example.net", "192.0.2.10")
_GUESSER: Final = Client("dialup-66.example.com", "192.0.2.66")
_PARTNER: Final = Client("mx.partner.example.org", "198.51.100.25")

_GUESSES: Final = ("admin", "alice", "bob", "carol", "dave", "erin", "frank", "info", "mallory", "peggy")

_INVITATION: Final = Letter(
    "anna@example.net",
    (f"hjp@{DOMAIN}",),
    (
        "From: Anna <anna@example.net>",
        f"To: Peter <hjp@{DOMAIN}>",
        "Subject: Lunch?",
        "Date: Thu, 04 Jun 2026 10:00:00 +0200",
        "Message-ID: <lunch@example.net>",
        "",
        "At noon, as always?",
    ),
)

_REPORT: Final = Letter(
    "office@partner.example.org",
    (f"gina@{DOMAIN}", f"archive@{DOMAIN}"),
    (
        "From: Office <office@partner.example.org>",
        f"To: gina@{DOMAIN}, archive@{DOMAIN}",
        "Subject: Monthly report",
        "Date: Thu, 04 Jun 2026 11:00:00 +0200",
        "Message-ID: <report@partner.example.org>",
        "",
        "All is well.",
    ),
)


@dataclass(slots=True)
class Tour:
    """One run through all scenes; `steps` fills on the way."""

    postfix: PrivatePostfix
    plugins: PluginSet
    screen: Screen
    steps: list[Step] = field(default_factory=list)

    def run(self) -> list[Step]:
        """Play every scene; return the steps."""
        self._unknown_recipient()
        self._show_from_queue(self._first_contact())
        self._guesser()
        self._two_minds()
        return self.steps

    def _unknown_recipient(self) -> None:
        self._scene("aliases", "1. Nobody of that name", "Mail to people who do not exist is refused at RCPT.")
        with self._dialogue(_STRANGER) as talk:
            (reply,) = talk.envelope(_INVITATION.sender, [f"nobody@{DOMAIN}"])
        self._step("aliases", "an unknown recipient is refused", "550 5.1.1", reply)

    def _first_contact(self) -> str | None:
        """Play the greylisting; return the queue id of the message, None if it was not accepted."""
        self._scene(
            "greylist",
            "2. Come again later",
            "Who brings mail for the first time is asked to come again. Mail servers do, most spammers do not. "
            f"Until the black period is over, nothing changes: 50 minutes in earnest, {BLACK_TIMEOUT_S} seconds here.",
        )
        with self._dialogue(_STRANGER) as talk:
            first = talk.deliver(_INVITATION)
        over = time.monotonic() + BLACK_TIMEOUT_S + 0.1
        self._step("greylist", "a first contact is asked to come again later", "450 4.7.1", first)
        if first.code == 450:
            self.screen.say()
            self.screen.wait("waiting for the end of the black period", over)
        with self._dialogue(_STRANGER) as talk:
            second = talk.deliver(_INVITATION)
        self._step("greylist", "after the black period it is accepted", "250 2.0.0", second)
        return second.queue_id

    def _show_from_queue(self, queue_id: str | None) -> None:
        self._scene(
            "addsig",
            "3. What arrives",
            "That message, as it now lies in Postfix's queue, with the signature of its sender's domain below it. "
            "(Delivering it is Postfix's business, and in the demo there is nowhere to.)",
        )
        self.screen.actor(f"postcat -bhq {queue_id}")
        text = self._queued(queue_id)
        self.screen.quotation(text, SIGNATURE)
        self._record("addsig", "the signature is below the message", "yes", _signed(text))

    def _guesser(self) -> None:
        limit: int = self.plugins.option("count_denies", "limit", 4)
        self._scene(
            "count_denies",
            "4. Enough is enough",
            f"A client that guesses names is hung up on, once it has been refused more than {limit} times.",
        )
        with self._dialogue(_GUESSER) as talk:
            names = [_GUESSES[n % len(_GUESSES)] + str(n // len(_GUESSES) or "") for n in range(limit + 1)]
            *_, last = talk.envelope("winner@example.com", [f"{name}@{DOMAIN}" for name in names])
            closed = last.code == 521 and talk.hung_up()
            if closed:
                self.screen.line("S", "(hangs up)")
        got = f"{last}{', hung up' if closed else ''}"
        self._record("count_denies", f"refusal {limit + 1} ends the connection", "521, hung up", got, ok=closed)

    def _two_minds(self) -> None:
        self._scene(
            "aliases",
            "5. Two recipients who disagree",
            "gina wants signatures, the archive wants mail as it came (its line in the aliases file says addsig=off). "
            "One message cannot be both, so the second recipient is asked for in a message of its own.",
        )
        with self._dialogue(_PARTNER) as talk:
            replies = talk.envelope(_REPORT.sender, _REPORT.recipients)
            self._step("disagree", "the second recipient is to be sent apart", "452 4.5.3", replies[-1])
            first = talk.content(_REPORT.lines)
            second = talk.deliver(Letter(_REPORT.sender, _REPORT.recipients[1:], _REPORT.lines))
        self._step("disagree", "sent apart, it is accepted", "250 2.0.0", second)
        texts = [self._queued(reply.queue_id) for reply in (first, second)]
        got = ", ".join(map(_signed, texts))
        self._record("disagree", "gina gets a signature, the archive none", "yes, no", got)

    def _scene(self, plugin: str, title: str, rule: str) -> None:
        loaded = self.plugins.loaded.get(plugin)
        if loaded is None:
            file = f"plugin {plugin}, which is not loaded"
        elif loaded.file.parent == bundled_directory():
            file = f"hooks/{loaded.file.name}"
        else:
            file = str(loaded.file)
        self.screen.scene(title, file, rule)

    def _dialogue(self, client: Client) -> Dialogue:
        self.screen.actor(f"{client} connects")
        return Dialogue(self.postfix.front_port, client, self.screen.line)

    def _queued(self, queue_id: str | None) -> str:
        return self.postfix.message(queue_id).decode(errors="replace") if queue_id else "(not in the queue)"

    def _step(self, rule: str, title: str, expected: str, reply: Reply) -> None:
        self._record(rule, title, expected, str(reply), ok=str(reply).startswith(expected))

    def _record(self, rule: str, title: str, expected: str, got: str, *, ok: bool | None = None) -> None:
        step = Step(rule, title, expected, got, got == expected if ok is None else ok)
        self.steps.append(step)
        self.screen.step(step)


def _signed(text: str) -> str:
    return "yes" if SIGNATURE in text else "no"
