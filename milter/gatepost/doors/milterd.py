"""The milter socket: one libmilter for the doors edge and content. Its thread, its negotiation, who gets which session.

Negotiation comes before Postfix says which service it speaks for, so every session negotiates what either door needs.
{daemon_name} then tells them apart at CONNECT: the inner smtpd has the content door; with `[milter] edge = true` any
other service has the edge door. What each does with its callbacks is in `content` and `edge`.

Which macros Postfix sends is negotiated, too, so that no list in main.cf (milter_connect_macros and its like) has a say
in what a session knows, and what nobody reads is not sent.

Fails closed: an exception in a callback is a 451, a session that matches no transaction is turned away while content
hooks are loaded, and Postfix's services carry `milter_default_action=tempfail`.

pymilter's traps that shape this file: `main()` in one daemon thread, never the main one; no restart in one process;
`stop()` only wakes on a connection; the socket's mode is the umask's. Arguments that are not UTF-8 (HELO, an unknown
command, a client's name) never get as far as the callback: pymilter itself answers by its exception policy, a 451 that
nobody meant. So its policy is to go on, and ours is in `_guarded`. A header's name cannot be lost that way: Postfix
takes only ASCII for one (`is_header_buf`).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import milter
import structlog

from gatepost.deadline import Deadline
from gatepost.doors.content import ContentSession
from gatepost.doors.crossing import Crossing
from gatepost.doors.edge import EdgeSession, macro
from gatepost.doors.milter_socket import SocketError, give_to_postfix, knock, prepare_path, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.doors.lease import Key, Part
    from gatepost.doors.switchboard import Switchboard
    from gatepost.endpoint import Endpoint

DAEMON_NAME = "gatepost-content"
"""The inner smtpd's milter_macro_daemon_name, as `gatepost postfix apply` sets it."""

_EDITS = (
    milter.ADDHDRS
    | milter.CHGHDRS
    | milter.CHGBODY
    | milter.ADDRCPT
    | milter.DELRCPT
    | milter.CHGFROM
    | milter.QUARANTINE
)
_MACROS = {
    milter.M_CONNECT: "{daemon_name} {daemon_addr} {daemon_port}",
    milter.M_HELO: "{tls_version} {cipher} {cert_subject} {cert_issuer} {auth_authen} {auth_type}",
    milter.M_ENVFROM: "{tls_version} {cipher} {cert_subject} {cert_issuer} {auth_authen} {auth_type} {auth_author}",
    milter.M_ENVRCPT: "{rcpt_mailer} {rcpt_host} {rcpt_addr}",
}
"""All that `edge` and this file read, by stage. The end of a message has only {i}."""

_MACROS_OF_CONTENT = {milter.M_CONNECT: "{daemon_name}", milter.M_ENVFROM: "{auth_authen}"}
"""Without the edge. Nobody logs in at the inner smtpd: that one is there because libmilter takes no empty list."""


_NEVER = milter.P_NODATA | milter.P_NOEOH
_NOT_FOR_CONTENT = milter.P_NOHELO | milter.P_NORCPT | milter.P_NOUNKNOWN
_NO_REPLY = milter.P_NR_HDR | milter.P_NR_BODY

IDLE_LIMIT_S = 86_400
"""So long a milter session may say nothing. While content streams to an smtpd, its milters hear nothing, and libmilter
would close the session after 7,210 s (libmilter/worker.c): a message that takes longer than that was always put off."""

STOP_LIMIT_S = 6.0
"""A little more than libmilter needs by itself to see that it is to stop."""
KNOCK_INTERVAL_S = 0.02

_SIGNAL_THREAD_S = 1.0
_THREADS = Path("/proc/self/task")

_log = structlog.get_logger("gatepost.milter")
_Arguments = ParamSpec("_Arguments")


class _Session:
    """One milter session, of whichever door."""

    __slots__ = ("content", "covered", "edge", "has_edge", "key", "name", "no_reply")

    def __init__(self, covered: frozenset[Part], no_reply: int, *, has_edge: bool) -> None:
        self.covered = covered
        """What was negotiated."""
        self.no_reply = no_reply
        """The callbacks that are not answered, of those negotiated."""
        self.has_edge = has_edge
        """Whether the edge was on when this was negotiated: a reload may come between that and CONNECT."""
        self.content: ContentSession | None = None
        self.edge: EdgeSession | None = None
        self.key: Key | None = None
        self.name: str | None = None

    def answer(self, callback: int) -> int:
        """Return what stands for going on in a callback of this kind."""
        return milter.NOREPLY if self.no_reply & callback else milter.CONTINUE


def _guarded(
    callback: Callable[Concatenate[MilterDoor, Any, _Arguments], int],
) -> Callable[Concatenate[MilterDoor, Any, _Arguments], int]:
    """Make every exception in a callback a 451, which pymilter's own policy would be but for its traps (see above)."""

    @wraps(callback)
    def guarded(self: MilterDoor, ctx: Any, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> int:
        try:
            return callback(self, ctx, *arguments, **named)
        except Exception:  # noqa: BLE001 - libmilter's threads end here
            _log.exception("bug in the milter")
            session = ctx.getpriv()
            if session is not None and session.content is not None:
                session.content.fail()
            return milter.TEMPFAIL

    return guarded


class MilterDoor:
    """The milter socket and its thread. One for each process, and never started again after `stop`."""

    def __init__(self, endpoint: Endpoint, board: Switchboard, on_end: Callable[[], None]) -> None:
        """Call `on_end` on the event loop if libmilter ends without `stop`: it cannot be started again."""
        self._endpoint = endpoint
        self._board = board
        self._on_end = on_end
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._crossing: Crossing

    def open(self) -> None:
        """Make the socket; SocketError if it cannot be made or is in use. Call before `start`."""
        if not hasattr(milter, "main"):
            raise SocketError("the module `milter` is not pymilter's: a folder of that name shadows it; see sys.path")
        if self._endpoint.path is not None:
            prepare_path(Path(self._endpoint.path))
        milter.set_connect_callback(self._on_connect)
        milter.set_helo_callback(self._on_helo)
        milter.set_envfrom_callback(self._on_mail)
        milter.set_envrcpt_callback(self._on_rcpt)
        milter.set_header_callback(self._on_header)
        milter.set_body_callback(self._on_body)
        milter.set_eom_callback(self._on_end_of_message)
        milter.set_abort_callback(self._on_abort)
        milter.set_close_callback(self._on_close)
        milter.set_exception_policy(milter.CONTINUE)
        milter.set_flags(_EDITS | milter.SETSYMLIST)
        milter.register("gatepost", negotiate=self._on_negotiate, unknown=self._on_unknown)
        milter.settimeout(IDLE_LIMIT_S)
        umask = os.umask(0o117)
        try:
            milter.setconn(self._endpoint.libmilter)
            milter.opensocket(False)
        except milter.error as error:
            raise SocketError(f"cannot listen at {self._endpoint}: {why_not(self._endpoint)}") from error
        finally:
            os.umask(umask)
        if self._endpoint.path is not None:
            give_to_postfix(Path(self._endpoint.path))

    def start(self) -> None:
        """Serve, in a thread of its own; the running event loop decides."""
        loop = asyncio.get_running_loop()
        self._crossing = Crossing(loop)
        self._thread = threading.Thread(target=self._serve, args=(loop,), name="milter", daemon=True)
        before = _threads()
        self._thread.start()
        _await_signal_thread(before, self._thread.native_id)

    async def stop(self) -> None:
        """End the thread; messages under way must have ended before. Takes up to libmilter's 5 s."""
        if self._thread is None:
            return
        self._is_stopping = True
        stopping = asyncio.create_task(asyncio.to_thread(milter.stop))
        # It looks up from its socket when somebody connects, else every 5 s. A knock before it was told to stop is in
        # vain, so more than one.
        deadline = Deadline.after(STOP_LIMIT_S)
        while self._thread.is_alive() and deadline.remaining() > 0:
            with suppress(OSError):
                await asyncio.to_thread(knock, self._endpoint)
            await asyncio.to_thread(self._thread.join, KNOCK_INTERVAL_S)
        await asyncio.gather(stopping, return_exceptions=True)
        if self._endpoint.path is not None:
            Path(self._endpoint.path).unlink(missing_ok=True)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run libmilter to its end. Its signal thread, too, may end it, with a signal that was the daemon's."""
        try:
            with suppress(milter.error):  # it has logged its reason to syslog
                milter.main()
        finally:
            if not self._is_stopping:
                with suppress(RuntimeError):  # the loop is gone: so is the daemon
                    loop.call_soon_threadsafe(self._on_end)

    def _on_negotiate(self, ctx: Any, options: list[int]) -> int:
        offered_actions, offered = options[0], options[1]
        needs, has_edge = self._board.milter_needs(), self._board.edge
        covered = set(needs)
        skip = _NEVER
        if "header" not in needs:
            skip |= milter.P_NOHDRS
        elif not offered & milter.P_HDR_LEADSPC:
            covered.discard("header")
        if "body" not in needs:
            skip |= milter.P_NOBODY
        if offered_actions & _EDITS != _EDITS:
            covered.discard("edit")
        no_reply = _NO_REPLY & offered if needs else 0
        if has_edge:
            # RCPT is answered, not P_NR_RCPT: what is not answered stays in smtpd's buffer until something else is
            # (`milter8_event`), and a client that only guesses recipients would never be heard of.
            skip |= milter.P_RCPT_REJ
        else:
            skip |= _NOT_FOR_CONTENT
            # With nothing to look at, the whole session is accepted at CONNECT, which must be answered for that.
            no_reply |= milter.P_NR_CONN & offered if needs else 0
        options[0] = offered_actions & (_EDITS if "edit" in needs else 0)
        if offered_actions & milter.SETSYMLIST:
            # Postfix 3.7 offers it whatever milter_protocol says. Where nobody offers it, main.cf's lists count.
            options[0] |= milter.SETSYMLIST
            for stage, macros in (_MACROS if has_edge else _MACROS_OF_CONTENT).items():
                ctx.setsymlist(stage, macros)
        options[1] = offered & (skip | no_reply | milter.P_HDR_LEADSPC)
        options[2] = options[3] = 0
        ctx.setpriv(_Session(frozenset(covered), no_reply, has_edge=has_edge))
        return milter.CONTINUE

    @_guarded
    def _on_connect(self, ctx: Any, name: str, family: int, address: Any) -> int:
        session: _Session = ctx.getpriv()
        session.name = macro(ctx, "{daemon_name}")
        if family in {socket.AF_INET, socket.AF_INET6} and address[1]:
            session.key = (address[0], address[1])
        if session.name != DAEMON_NAME and session.has_edge and self._board.edge and session.key is not None:
            session.edge = EdgeSession(self._board, self._crossing)
            return session.edge.connect(ctx, name, session.key)
        if not session.covered and not self._board.milter_needs():
            # Safe across a reload: no lease is covered by this session, so a transaction that needs more gets another.
            return milter.ACCEPT
        if session.name == DAEMON_NAME:
            leases, needs = self._board.leases, self._board.milter_needs
            session.content = ContentSession(session.key, session.covered, leases, needs, self._crossing)
        return session.answer(milter.P_NR_CONN)

    @_guarded
    def _on_helo(self, ctx: Any, name: str) -> int:
        edge = ctx.getpriv().edge
        return edge.helo(ctx, name) if edge is not None else milter.CONTINUE

    @_guarded
    def _on_unknown(self, ctx: Any, verb: str) -> int:
        edge = ctx.getpriv().edge
        return edge.unknown(ctx, verb) if edge is not None else milter.CONTINUE

    @_guarded
    def _on_mail(self, ctx: Any, *arguments: bytes) -> int:
        session: _Session = ctx.getpriv()
        if session.edge is not None:
            return session.edge.mail(ctx, arguments)
        if session.content is not None:
            return session.content.mail(ctx)
        # The public smtpd or another service: its mail goes through the proxy, which is where it is looked at.
        _log.warning(
            "milter session from another service, accepted unseen",
            daemon_name=session.name,
            client=session.key,
            remedy="gatepost postfix doctor tells which service lists gatepost's milter and should not",
        )
        return milter.ACCEPT

    @_guarded
    def _on_rcpt(self, ctx: Any, *arguments: bytes) -> int:
        edge = ctx.getpriv().edge
        return edge.rcpt(ctx, arguments) if edge is not None else milter.CONTINUE

    @_guarded
    def _on_header(self, ctx: Any, name: str, value: bytes) -> int:
        session: _Session = ctx.getpriv()
        if session.content is not None:
            session.content.header(name, value)
        return session.answer(milter.P_NR_HDR)

    @_guarded
    def _on_body(self, ctx: Any, chunk: bytes) -> int:
        session: _Session = ctx.getpriv()
        if session.content is not None:
            session.content.body(chunk)
        return session.answer(milter.P_NR_BODY)

    @_guarded
    def _on_end_of_message(self, ctx: Any) -> int:
        content = ctx.getpriv().content
        return content.end_of_message(ctx) if content is not None else milter.ACCEPT

    @_guarded
    def _on_abort(self, ctx: Any) -> int:
        session = ctx.getpriv()
        if session is not None:
            for one in (session.content, session.edge):
                if one is not None:
                    one.reset()
        return milter.CONTINUE

    @_guarded
    def _on_close(self, ctx: Any) -> int:
        session = ctx.getpriv()
        if session is not None:
            ctx.setpriv(None)
            if session.content is not None:
                session.content.reset()
            if session.edge is not None:
                session.edge.close()
        return milter.CONTINUE


def _await_signal_thread(before: set[int], milter_thread: int | None) -> None:
    """Return once libmilter's own signal thread waits; it is the one that is new and does not block SIGHUP.

    It waits for SIGHUP, SIGTERM and SIGINT, to end the milter (libmilter/signal.c). The kernel gives them to our main
    thread, but one that is still pending there when the other begins to wait is taken by that: a reload is lost, and
    with it the milter. So nobody may be told before that we are ready.
    """
    deadline = time.monotonic() + _SIGNAL_THREAD_S
    while _THREADS.is_dir() and time.monotonic() < deadline:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            open_to_it = {thread for thread in _threads() - before if not _blocks_hangup(thread)}
            if open_to_it and milter_thread not in open_to_it:
                return
        time.sleep(0.001)


def _threads() -> set[int]:
    return {int(entry.name) for entry in _THREADS.iterdir()} if _THREADS.is_dir() else set()


def _blocks_hangup(thread: int) -> bool:
    found = re.search(r"^SigBlk:\s*(\w+)", (_THREADS / str(thread) / "status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) & 1 << signal.SIGHUP - 1)
