"""Real name servers for tests: a private rbldnsd or nsd on a free loopback port, in a directory of its own.

    with BlockList({"bl.example": "192.0.2.1 :127.0.0.2:listed", "names.example:dnset": ".spam.example"}) as server:
        ...  # [dns] nameservers = [server.address]; server.queries() is what it was asked
    with NameServer({"zone.example": "mail IN A 192.0.2.1"}) as server:
        ...

`Relay` stands in front of one to count, delay or drop; `Answering` gives the answers that no real server gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import dns.message
import dns.query
import pytest

from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

START_S = 30.0
STOP_S = 15.0
"""For a host that is badly overloaded, both."""

SOA = "$TTL 300\n@ IN SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 60\n@ IN NS ns.invalid.\n"
"""Stands before a zone of `NameServer` that has no SOA of its own: positive answers 300 s, negative ones 60 s."""

RBLDNSD_SOA = "$SOA 300 ns.invalid hostmaster.invalid 1 3600 600 86400 60\n$NS 300 ns.invalid\n"


class Server(ABC):
    """A name server as a child process, from `with` until its end; `address` is `127.0.0.1:PORT`."""

    program: ClassVar[str]

    def __init__(self, zones: Mapping[str, str]) -> None:
        self.zones = dict(zones)
        self.address = ""
        self.port = 0
        self.directory: Path
        self._process: subprocess.Popen[bytes]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        program = shutil.which(self.program, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            pytest.skip(f"{self.program} is not installed")
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"gatepost-{self.program}-")))
            self._start(program)
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @abstractmethod
    def command(self, program: str) -> list[str]:
        """Write the files that the server reads; return how to start it in the foreground."""

    def _start(self, program: str) -> None:
        # The port is free when we look, and may be taken when the server does: then another one.
        for _ in range(5):
            self.port = free_port()
            self.address = f"127.0.0.1:{self.port}"
            output = self.directory / "output"
            with output.open("wb") as file:
                self._process = subprocess.Popen(
                    self.command(program), stdout=file, stderr=file, cwd=self.directory, start_new_session=True
                )
            if self._is_up():
                return
            self._stop()
        raise AssertionError(f"{self.program} did not start: {output.read_text()}")

    def _is_up(self) -> bool:
        zone = next(iter(self.zones)).partition(":")[0]
        query = dns.message.make_query(zone, "SOA")
        end = time.monotonic() + START_S
        patience_s = 0.1
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(dns.exception.DNSException, OSError):
                dns.query.udp(query, "127.0.0.1", port=self.port, timeout=patience_s)
                return True
            time.sleep(0.02)
            patience_s *= 1.2
        return False

    def _stop(self) -> None:
        end_server(self._process, self.port, STOP_S)


class BlockList(Server):
    """rbldnsd (UDP only). A zone is `NAME`, an ip4set, or `NAME:TYPE` (dnset, ip6trie, generic, ip4trie, ..).

    A dataset without `$SOA` gets one with negative answers of 60 s.
    """

    program = "rbldnsd"

    def command(self, program: str) -> list[str]:
        specs = []
        for number, (zone, text) in enumerate(self.zones.items()):
            name, _, kind = zone.partition(":")
            (self.directory / f"zone{number}").write_text(text if "$SOA" in text else RBLDNSD_SOA + text)
            specs.append(f"{name}:{kind or 'ip4set'}:zone{number}")
        user = []
        if os.geteuid() == 0:
            # It will not run as root.
            shutil.chown(self.directory, "nobody")
            user = ["-u", "nobody"]
        return [program, "-n", *user, "-t", "300", "-c", "0", "-l", "+queries", "-b", f"127.0.0.1/{self.port}", *specs]

    def queries(self) -> list[str]:
        """Return what was asked so far, in order, as `NAME TYPE`."""
        lines = (self.directory / "queries").read_text().splitlines()
        # 1700000000 127.0.0.1 2.0.0.127.bl.example A IN: NOERROR/1/57, after the question of `_is_up`
        return [" ".join(line.split()[2:4]) for line in lines if " SOA " not in line]


class NameServer(Server):
    """nsd, UDP and TCP. Zones are master files; one without a SOA gets `SOA` before it."""

    program = "nsd"

    def command(self, program: str) -> list[str]:
        settings = [
            f'server:\n ip-address: 127.0.0.1@{self.port}\n username: ""\n database: ""\n server-count: 1',
            f' zonesdir: "{self.directory}"\n pidfile: "{self.directory}/pid"\n rrl-ratelimit: 0\n hide-version: yes',
            f' xfrdfile: "{self.directory}/xfrd"\n xfrdir: "{self.directory}"\n zonelistfile: "{self.directory}/list"',
            "remote-control:\n control-enable: no",
        ]
        for number, (zone, text) in enumerate(self.zones.items()):
            (self.directory / f"zone{number}").write_text((text if " SOA " in text else SOA + text) + "\n")
            settings.append(f'zone:\n name: "{zone}"\n zonefile: "zone{number}"')
        file = self.directory / "nsd.conf"
        file.write_text("\n".join(settings) + "\n")
        return [program, "-d", "-c", str(file)]


def free_port() -> int:
    """Return a loopback port that is free for UDP and for TCP, and that no outgoing connection or query can take."""
    while not is_free(port := free_loopback_port()):
        pass
    return port


def is_free(port: int) -> bool:
    """Tell whether nobody has that port of 127.0.0.1 for UDP, and nobody listens on it for TCP."""
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def end_server(process: subprocess.Popen[bytes], port: int, limit_s: float) -> None:
    """End a server that leads a process group, and return when nobody has its port any more.

    Its children may outlive it for a moment: they would still answer, or be in the way of the next one.
    """
    process.terminate()
    end = time.monotonic() + limit_s
    while process.poll() is None or not is_free(port):
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()


@dataclass(slots=True)
class _Datagrams(asyncio.DatagramProtocol):
    """Hands each datagram on, with who sent it and how to send."""

    received: Callable[[bytes, tuple[str, int]], None]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received(data, addr)


class Answering:
    """A UDP socket that answers each query with what `answer` makes of its bytes, None for nothing at all.

    `delay_s` later, each for itself. `asked` counts the queries, `most` those that waited at the same time.
    """

    def __init__(self, answer: Callable[[bytes], bytes | None], *, delay_s: float = 0.0, port: int = 0) -> None:
        self.answer = answer
        self.port = port
        self.delay_s = delay_s
        self.asked = 0
        self.most = 0
        self._waiting = 0
        self.address = ""
        self._transport: asyncio.DatagramTransport

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._received), local_addr=("127.0.0.1", self.port)
        )
        self.address = "127.0.0.1:{1}".format(*self._transport.get_extra_info("sockname"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def _received(self, query: bytes, sender: tuple[str, int]) -> None:
        self.asked += 1
        self._waiting += 1
        self.most = max(self.most, self._waiting)
        asyncio.get_running_loop().call_later(self.delay_s, self._send, self.answer(query), sender)

    def _send(self, answer: bytes | None, recipient: tuple[str, int]) -> None:
        self._waiting -= 1
        if answer is not None and not self._transport.is_closing():
            self._transport.sendto(answer, recipient)


class Relay(Answering):
    """Stands before a real server at `upstream`: every answer is the server's, `delay_s` late."""

    def __init__(self, upstream: str, *, delay_s: float = 0.0) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        super().__init__(self._ask, delay_s=delay_s)

    def _ask(self, query: bytes) -> bytes:
        # The server is on this machine and takes microseconds.
        with socket.socket(type=socket.SOCK_DGRAM) as upstream:
            upstream.settimeout(30)
            upstream.connect(self._upstream)
            upstream.send(query)
            return upstream.recv(65535)
