"""The edge door: what the milter on a public smtpd hears, and how it answers there. Runs in libmilter's threads.

Every callback that a plugin may have a say in crosses to the event loop, where the client's `Visit` decides. Here is
only libmilter's side: macros and bytes in, a reply for the client out.

A HELO or an unknown command that is not UTF-8 does not get here (see `milterd`). Postfix itself refuses such lines,
"500 5.5.2 Error: bad UTF-8 syntax", unless smtputf8_enable = no. Then such a HELO is judged at the proxy, which is told
the name too, and such a command is not heard of at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import milter
import structlog

from gatepost.deadline import Deadline
from gatepost.doors.crossing import LateError
from gatepost.doors.inner_transaction import TRY_AGAIN
from gatepost.doors.visit import Arrival, Login, Tls, Visit
from gatepost.smtp.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gatepost.doors.crossing import Crossing
    from gatepost.doors.session_table import Key
    from gatepost.doors.switchboard import Switchboard

LINES_LIMIT = 32
"""As many lines libmilter takes for one reply (`smfi_setmlreply`)."""

LINE_LIMIT_BYTES = 980
"""As long a line libmilter takes, every % in it doubled (MAXREPLYLEN in libmilter/smfi.c): what is longer is an error,
and the client would get a 451 of nobody's making."""

_ENHANCED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}", re.ASCII)

_log = structlog.get_logger("gatepost.edge")


class EdgeSession:
    """One client's connection to a public smtpd."""

    def __init__(self, board: Switchboard, crossing: Crossing) -> None:
        self._board = board
        self._crossing = crossing
        self._visit = Visit(board)

    def connect(self, ctx: Any, name: str, key: Key) -> int:
        """Answer before the banner."""
        port = macro(ctx, "{daemon_port}") or ""
        arrival = Arrival(
            *key,
            # smtpd says `unknown`, others `[ADDRESS]`, for a client without a confirmed name.
            name=None if name == "unknown" or name.startswith("[") else name,
            daemon_name=macro(ctx, "{daemon_name}"),
            daemon_address=macro(ctx, "{daemon_addr}"),
            daemon_port=int(port) if port.isascii() and port.isdecimal() else None,
        )
        return self._ask(ctx, lambda deadline: self._visit.connect(arrival, deadline))

    def helo(self, ctx: Any, name: str) -> int:
        """Answer a greeting."""
        tls = _tls(ctx)
        # One who greets again after logging in is still known; one who begins TLS anew no longer.
        login = Login(macro(ctx, "{auth_authen}"), macro(ctx, "{auth_type}"))
        return self._ask(ctx, lambda deadline: self._visit.helo(name, tls, login, deadline))

    def unknown(self, ctx: Any, verb: str) -> int:
        """Answer what is no command."""
        return self._ask(ctx, lambda deadline: self._visit.unknown(verb, deadline))

    def mail(self, ctx: Any, arguments: Sequence[bytes]) -> int:
        """Answer MAIL."""
        tls = _tls(ctx)  # a client need not greet again after STARTTLS (RFC 3207 section 4.2)
        name = macro(ctx, "{auth_authen}")
        # Postfix passes on what a stranger says of himself, too: whom only a login may speak for (RFC 4954 section 5).
        login = Login(name, macro(ctx, "{auth_type}"), macro(ctx, "{auth_author}") if name else None)
        argument = b"FROM:" + b" ".join(arguments)
        return self._ask(ctx, lambda deadline: self._visit.mail(argument, tls, login, deadline))

    def rcpt(self, ctx: Any, arguments: Sequence[bytes]) -> int:
        """Take note of a recipient that Postfix has refused; the others are the proxy's."""
        if macro(ctx, "{rcpt_mailer}") != "error":
            return milter.CONTINUE
        reply = refused_by_postfix(macro(ctx, "{rcpt_host}") or "", macro(ctx, "{rcpt_addr}") or "")
        if reply is None:
            return milter.CONTINUE
        argument = b"TO:" + b" ".join(arguments)
        return self._ask(ctx, lambda deadline: self._visit.refused(argument, reply, deadline))

    def reset(self) -> None:
        """The transaction is over: ABORT follows every message, delivered ones too. Nobody waits for an answer."""
        self._crossing.start(self._visit.abort)

    def close(self) -> None:
        """The client has left; nobody waits for an answer."""
        self._crossing.start(self._visit.close)

    def _ask(self, ctx: Any, work: Callable[[Deadline], Coroutine[None, None, Reply | None]]) -> int:
        deadline = Deadline.after(self._board.edge_budget_s)
        try:
            reply = self._crossing.run(lambda: work(deadline), deadline)
        except LateError as error:
            _log.error("no verdict in time, answered 451", problem=str(error))
            reply = TRY_AGAIN
        return milter.CONTINUE if reply is None else answer(ctx, reply)


def _tls(ctx: Any) -> Tls:
    return Tls(*(macro(ctx, name) for name in ("{tls_version}", "{cipher}", "{cert_subject}", "{cert_issuer}")))


def macro(ctx: Any, name: str) -> str | None:
    """Return the value of a macro; None if Postfix has not sent it. Bytes that are not UTF-8 stand as `\\xe4` in it.

    A login may have some, or what Postfix says of a recipient: as None a user would be a stranger.
    """
    try:
        value: str | None = ctx.getsymval(name)
    except UnicodeDecodeError as error:
        value = error.object.decode("utf-8", "backslashreplace")
    return value or None


def refused_by_postfix(enhanced: str, text: str) -> Reply | None:
    """Return the reply that Postfix gave a recipient, as its macros tell it: without the code, so that one is made up.

    `smtpd_milter_eval` splits the reply and gives {rcpt_host} the enhanced status code, {rcpt_addr} the text after the
    address. None for a recipient that was not refused at all: one that transport_maps sends to error(8), and Postfix
    accepts nevertheless (smtpd_reject_unlisted_recipient = no), has the next hop and the address there.
    """
    if not _ENHANCED.fullmatch(enhanced) or " " not in text.strip():
        return None
    return Reply.of(450 if enhanced.startswith("4") else 550, text.strip(), enhanced)


def answer(ctx: Any, reply: Reply) -> int:
    """Have libmilter give this reply to the client; return what the callback must return for that."""
    enhanced = reply.enhanced or ""
    wire = reply.encode().decode("ascii").split("\r\n")[:-1][:LINES_LIMIT]
    # libmilter puts code and enhanced code before every line by itself.
    lines = [_escaped(line[4:].removeprefix(enhanced).lstrip()) for line in wire]
    ctx.setreply(str(reply.code), reply.enhanced, *lines)
    return milter.REJECT if reply.code // 100 == 5 else milter.TEMPFAIL


def _escaped(line: str) -> str:
    """Return a line as libmilter takes it: a single % would be a mistake."""
    escaped = line.replace("%", "%%")
    return escaped if len(escaped) <= LINE_LIMIT_BYTES else line[: LINE_LIMIT_BYTES // 2].replace("%", "%%")
