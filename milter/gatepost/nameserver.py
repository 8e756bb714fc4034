"""Where DNS questions go: an address and port, as the configuration or resolv.conf(5) has it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

SYSTEM_FILE = Path("/etc/resolv.conf")

_PORT = 53
_SPELLING = re.compile(
    r"\[(?P<bracketed>[^\[\]]+)\](?::(?P<port6>\d{1,5}))?|(?P<plain>[^:\[\]]+)(?::(?P<port4>\d{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class Nameserver:
    """A recursive name server: its IP address as text, IPv6 without brackets, and its port."""

    address: str
    port: int = _PORT

    @classmethod
    def parse(cls, text: str) -> Nameserver:
        """Parse `127.0.0.1`, `127.0.0.1:5353`, `::1`, `[::1]` or `[::1]:5353`; ValueError for anything else.

        A host name is refused: it would need a name server to find this one.
        """
        if match := _SPELLING.fullmatch(text):
            address, port = match["bracketed"] or match["plain"], match["port6"] or match["port4"] or str(_PORT)
        else:
            # Several colons and no brackets: an IPv6 address alone.
            address, port = text, str(_PORT)
        if not _is_address(address, bracketed=text.startswith("[")) or not 0 < int(port) < 65536:
            raise ValueError(
                f"{text!r} is no name server: write its IP address, and its port where that is not 53, "
                'such as "127.0.0.1:5353" or "[::1]:5353"'
            )
        return cls(address, int(port))

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def _is_address(text: str, *, bracketed: bool) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6 or not bracketed
    except ValueError:
        return False


def system_nameservers(file: Path = SYSTEM_FILE) -> tuple[Nameserver, ...]:
    """Return the `nameserver` lines of resolv.conf(5), without those that are no address.

    Without any, or without the file, the name server of this machine, as the C library does. The file's search list and
    options do not count: names are asked as they are.
    """
    try:
        text = file.read_text("utf-8", "replace")
    except OSError:
        text = ""
    found = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_] if _is_address(address, bracketed=False):
                found.append(Nameserver(address))
    return tuple(dict.fromkeys(found)) or (Nameserver("127.0.0.1"),)
