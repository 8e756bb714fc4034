"""Addresses in Postfix's spellings, made comparable: `localhost:10025` and `inet:127.0.0.1:10025` are one place."""

from __future__ import annotations

import os.path
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIBMILTER = re.compile(r"(?P<family>inet6?):(?P<port>\w+)@(?P<host>\[[^\]\s]+\]|[^\s,{}\]]+)")
"""`inet:PORT@HOST`: Postfix's smtpd takes PORT@HOST for a host name and dies (milter/milter8.c)."""

_HOSTS = {"localhost": "127.0.0.1", "": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1"}


def canonical(address: str, queue_directory: Path) -> str:
    """One spelling for one place; a relative UNIX path begins in the queue directory, where smtpd stands."""
    if found := LIBMILTER.fullmatch(address):
        address = postfix_spelling(found)
    kind, _, rest = address.partition(":")
    if kind in {"unix", "local"}:
        return f"unix:{os.path.realpath(queue_directory / rest)}"
    host, _, port = (rest if kind == "inet" else address).rpartition(":")
    host = host.lower()
    if ":" not in host:
        host = host.strip("[]")  # Postfix takes them around any host (util/host_port.c).
    return f"inet:{_HOSTS.get(host, host)}:{port}"


def is_milter(element: str, socket: str, queue_directory: Path) -> bool:
    """Whether an element of smtpd_milters, with `$name` replaced, leads to this socket, in whatever spelling."""
    address, wanted = of_milter(element), canonical(socket, queue_directory)
    return wanted in {
        canonical(address, queue_directory),
        # To a chrooted smtpd the queue directory is the root.
        canonical(address.replace(":/", f":{queue_directory}/", 1), queue_directory),
    }


def of_milter(element: str) -> str:
    """The address in an element of smtpd_milters: `{ inet:HOST:PORT, name=value }` or the address alone."""
    return re.split(r"[\s,]+", element.strip("{} \t"), maxsplit=1)[0]


def postfix_spelling(found: re.Match[str]) -> str:
    """What `inet:PORT@HOST` is to be for Postfix."""
    host = found["host"]
    return f"inet:[{host}]:{found['port']}" if ":" in host and host[0] != "[" else f"inet:{host}:{found['port']}"
