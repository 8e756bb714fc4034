"""The sockets as they answer now: gatepost's proxy, its milter, and the inner smtpd. Nothing is sent, only greeted."""

from __future__ import annotations

import re
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.endpoint import Endpoint
from gatepost.ops.postfix.doctor.finding import GATEPOST, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd

TIMEOUT_S = 5.0
"""For one whole conversation; the proxy and the milter answer in milliseconds, or they are stuck."""

_REPLY_LIMIT_BYTES = 65536

_NEGOTIATE = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)
"""Postfix's own first packet: SMFIC_OPTNEG, version 6, all actions, all steps (milter/milter8.c)."""


class Unusable(Exception):  # noqa: N818 - a state of what listens there
    """Something answers, and not as it should."""


def find(facts: Examination) -> Iterator[Finding]:
    """Greet the three."""
    found = list(_gatepost(facts))
    yield from found
    if facts.inner is not None:
        yield from _inner(facts, facts.inner, milter_is_ill=any(one.parameter == "milter.socket" for one in found))


def _gatepost(facts: Examination) -> Iterator[Finding]:
    listen = facts.config.proxy.listen
    try:
        offered = greet(_reachable(listen))
        if "XFORWARD" not in offered:
            raise Unusable("it does not offer XFORWARD")
    except OSError as error:
        yield Finding(
            GATEPOST,
            "proxy.listen",
            f"nothing answers at {listen} ({_reason(error)}): gatepost is not running, and clients get "
            "451 4.3.0 Error: queue file write error",
            "start gatepost",
            facts.remedies.start(),
        )
        return
    except Unusable as problem:
        yield Finding(
            GATEPOST,
            "proxy.listen",
            f"what listens at {listen} is not gatepost's proxy, or is stuck: {problem}",
            "see which program it is; set proxy.listen to a free port and apply again, or restart gatepost",
            _who_listens(listen),
        )
        return
    milter = facts.config.milter.socket
    try:
        has_edge = negotiate(_reachable(milter))
    except PermissionError:
        return  # This user may not connect, and `sockets` says whether Postfix may.
    except (OSError, Unusable) as error:
        yield Finding(
            GATEPOST,
            "milter.socket",
            f"gatepost's proxy answers, but its milter at {milter} does not "
            f"({_reason(error) if isinstance(error, OSError) else error}): "
            + ("every client" if facts.config.milter.edge else "mail that a content hook must see")
            + " gets 451",
            "restart gatepost: the socket was removed, or milter.socket has changed since it started",
            facts.remedies.restart(),
        )
        return
    if has_edge is not None and has_edge != facts.config.milter.edge:
        now, then = ("off", "on") if has_edge else ("on", "off")
        yield Finding(
            GATEPOST,
            "milter.edge",
            f"milter.edge is {now}, but {then} in the gatepost that runs: it was changed since",
            "restart gatepost, or have it reload its configuration",
            facts.remedies.restart(),
        )


def _inner(facts: Examination, inner: Smtpd, *, milter_is_ill: bool) -> Iterator[Finding]:
    address = facts.config.proxy.inner
    try:
        offered = greet(_reachable(address))
    except OSError as error:
        running = _postfix_runs(facts)
        yield Finding(
            inner.key,
            "proxy.inner",
            f"nothing answers at {address} ({_reason(error)}): "
            + ("Postfix has not been reloaded since it was set up" if running else "Postfix is not running"),
            "reload Postfix, once gatepost runs" if running else "start Postfix",
            facts.remedies.reload_postfix() if running else facts.remedies.start_postfix(),
        )
        return
    except Unusable as problem:
        # smtpd asks its milters before it greets.
        if not milter_is_ill:
            yield Finding(
                inner.key,
                "proxy.inner",
                f"what listens at {address} does not greet as the inner smtpd: {problem}; all of its processes are "
                "busy, a milter on it hangs, or it is another program",
                "see which program it is, and Postfix's log",
                _who_listens(address),
            )
        return
    if "XFORWARD" not in offered:
        yield Finding(
            inner.key,
            "smtpd_authorized_xforward_hosts",
            f"the inner service at {address} does not offer XFORWARD, whatever master.cf says: its settings "
            "in force are older",
            "reload Postfix",
            facts.remedies.reload_postfix(),
        )


def greet(endpoint: Endpoint) -> frozenset[str]:
    """Say EHLO and QUIT; return the keywords offered. OSError if nothing is there, Unusable if it is no SMTP."""
    deadline = time.monotonic() + TIMEOUT_S
    with _connected(endpoint) as connection:
        _reply(connection, b"220", "its banner is", deadline)
        connection.sendall(b"EHLO localhost\r\n")
        lines = _reply(connection, b"250", "it answers EHLO with", deadline)
        with suppress(OSError):
            connection.sendall(b"QUIT\r\n")
            # Its 221, so that it does not log a client that hung up.
            _read(connection, deadline)
    return frozenset(line[4:].decode(errors="replace").upper().partition(" ")[0].strip() for line in lines[1:])


def negotiate(endpoint: Endpoint) -> bool | None:
    """Open a milter session and leave; OSError if nothing is there, Unusable if it is no milter.

    Returns whether it has the edge door, by the macros that it asks for; None if it asks for none.
    """
    deadline = time.monotonic() + TIMEOUT_S
    with _connected(endpoint) as connection:
        # What closes at once may have said before that what it is.
        with suppress(BrokenPipeError):
            connection.sendall(_NEGOTIATE)
        answer = b""
        while len(answer) < 5 or (answer[4:5] == b"O" and len(answer) < _whole(answer)):
            try:
                more = _read(connection, deadline)
            except TimeoutError as error:
                raise Unusable(f"it says nothing in {TIMEOUT_S:g} s") from error
            if not more:
                break
            answer += more
        if answer[4:5] != b"O":
            raise Unusable(f"it does not speak the milter protocol: {answer[:40]!r}" if answer else "it hangs up")
        with suppress(OSError):
            connection.sendall(struct.pack("!Ic", 1, b"Q"))
    return None if b"{daemon_name}" not in answer else b"{daemon_addr}" in answer


def _whole(answer: bytes) -> int:
    """How long a packet is that begins like this; a negotiation has a few hundred bytes."""
    return 4 + min(int.from_bytes(answer[:4]), _REPLY_LIMIT_BYTES)


def _connected(endpoint: Endpoint) -> socket.socket:
    if endpoint.path is None:
        return socket.create_connection((endpoint.host, endpoint.port), timeout=TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(TIMEOUT_S)
        connection.connect(endpoint.path)
    except OSError:
        connection.close()
        raise
    return connection


def _reply(connection: socket.socket, code: bytes, what: str, deadline: float) -> list[bytes]:
    """Read one reply with all its lines; Unusable unless it has this code."""
    text = b""
    while len(text) < _REPLY_LIMIT_BYTES:
        lines = text.split(b"\r\n")
        if len(lines) > 1 and not re.match(rb"\d{3}-", lines[-2]):
            break
        try:
            more = _read(connection, deadline)
        except TimeoutError as error:
            raise Unusable(f"it says nothing in {TIMEOUT_S:g} s") from error
        if not more:
            break
        text += more
    if not text.startswith(code):
        raise Unusable(f"{what} {text[:80].decode(errors='replace').strip()!r}" if text else "it hangs up")
    return text.removesuffix(b"\r\n").split(b"\r\n")


def _read(connection: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(4096)


def _reachable(address: str) -> Endpoint:
    """Where to connect for something that listens at this address, perhaps on every interface."""
    endpoint = Endpoint.parse(address)
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}
    return endpoint if endpoint.host not in wildcards else Endpoint(wildcards[endpoint.host], endpoint.port)


def _reason(error: OSError) -> str:
    return error.strerror or ("no answer" if isinstance(error, TimeoutError) else str(error))


def _who_listens(address: str) -> str:
    endpoint = Endpoint.parse(address)
    return f"ss -xlp src {endpoint.path}" if endpoint.path is not None else f"ss -tlpn sport = :{endpoint.port}"


def _postfix_runs(facts: Examination) -> bool:
    """Whether master(8) lives: its working directory tells it from a stranger with the number of a stale pid file."""
    try:
        pid = int((facts.queue_directory / "pid" / "master.pid").read_text())
        return Path(f"/proc/{pid}/cwd").readlink() == facts.queue_directory.resolve()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
