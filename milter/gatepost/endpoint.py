"""Where a socket listens or connects: `127.0.0.1:10025`, `[::1]:10025`, `unix:/path`, `inet:127.0.0.1:8890`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

_TCP = re.compile(r"(?:inet:)?(?P<host>\[[0-9A-Fa-f:.]+\]|(?!inet:)[^:\[\]/@\s]+):(?P<port>\d{1,5})\Z")

_EVERY_ADDRESS = {"0.0.0.0", "::", "*"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address (`host`, `port`) or a UNIX-domain socket (`path`); the other fields are None."""

    host: str | None = None
    port: int | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Parse Postfix's spellings; ValueError, saying what was expected, for anything else.

        libmilter's `inet:PORT@HOST` is refused: Postfix dies on it, so it must not be learnt here.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError(f"{text!r}: write the path in full, unix:/...")
            if len(path.encode()) > 107:
                raise ValueError(f"{text!r}: a UNIX socket's path may have 107 bytes at most")
            return cls(path=path)
        match = _TCP.match(text)
        if not match or not 0 < int(match["port"]) < 65536:
            raise ValueError(f"{text!r} is no address: write HOST:PORT, [IPV6]:PORT or unix:/PATH")
        return cls(host=match["host"].strip("[]"), port=int(match["port"]))

    def __str__(self) -> str:
        """Return Postfix's spelling, without `inet:`."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if self.host and ":" in self.host else f"{self.host}:{self.port}"

    def collides(self, other: Endpoint) -> bool:
        """Return True if only one of the two can be had: the same path, or the same port at a common address."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        hosts = {"127.0.0.1" if host == "localhost" else host for host in (self.host, other.host)}
        return self.port == other.port and (len(hosts) == 1 or bool(hosts & _EVERY_ADDRESS))

    @property
    def libmilter(self) -> str:
        """Return libmilter's spelling, for `milter.setconn` (smfi_setconn)."""
        if self.path is not None:
            return f"unix:{self.path}"
        family = "inet6" if self.host and ":" in self.host else "inet"
        return f"{family}:{self.port}@{self.host}"


def _servers(value: object) -> tuple[Endpoint, ...]:
    if isinstance(value, str | Endpoint):
        value = (value,)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('write "HOST:PORT" or "unix:/PATH", or a list of several')
    return tuple(one if isinstance(one, Endpoint) else Endpoint.parse(str(one)) for one in value)


Servers = Annotated[
    tuple[Endpoint, ...],
    PlainValidator(_servers),
    PlainSerializer(lambda servers: [str(one) for one in servers], return_type=list[str]),
]
"""An option that names one server, `"127.0.0.1:783"` or `"unix:/PATH"`, or several in a list, the preferred first."""
