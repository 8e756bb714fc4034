"""greylist: asks a client that brings mail from an unknown sender to come again later; what only spams seldom does.

A first contact is answered 450 until black_timeout has passed. A retry in the grey_timeout after that is accepted, and
from then on so is everything from the same client, sender and recipient, until white_timeout has passed without mail.
A retry that comes too late is a first contact again; one that comes too early changes nothing.

HOOKS
    rcpt        each recipient by itself
    data        with deny_late, and for the null sender <>: so that a sender callout or bounce probe, which goes no
                further than RCPT, is not held up. Refuses the message if it is too early for any of its recipients

OPTIONS
    key             ["remote_ip", "sender", "recipient"]: which of them must be the same to be known
    black_timeout   "50m": from the first contact, this long everything is refused
    grey_timeout    "3h20m": after that, this long a retry is waited for
    white_timeout   "36d": this long without mail, and a known contact is forgotten; it is counted to a hundredth, so
                    that not every message writes to the store
    ipv4_prefix     24: IPv4 clients of one /24 are the same client
    ipv6_prefix     64: IPv6 clients of one /64 are the same client
    deny_late       false: true decides at DATA
    text            "This mail is temporarily denied"
    skip_authenticated  true: a client that has logged in is not asked
    skip_whitelisted    true: nor is one, a sender or a recipient that is whitelisted

    For some recipients only: mode = "off" here, and `greylist` as an option in the file of `aliases`. Exceptions for
    clients: `greylist=off` in the file of `client_options`. Both plugins stand before this one.

REPLIES
    450 4.7.1 This mail is temporarily denied

FAILURE
    When the store does not answer, on_unavailable decides: "defer" (451) or "pass".
    `gatepost store list greylist:` shows what is known; `gatepost store delete --prefix greylist:` forgets it.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gatepost import DenySoft, Duration, Entry, Keep, Plugin, PluginOptions, Put, Recipient, Transaction

if TYPE_CHECKING:
    from collections.abc import Coroutine


FRESH = 0.99
"""A known contact with more than this part of white_timeout left is not written again."""


class Options(PluginOptions):
    """What the manual above says; times in seconds."""

    key: tuple[Literal["remote_ip", "sender", "recipient"], ...] = Field(
        default=("remote_ip", "sender", "recipient"), min_length=1
    )
    black_timeout: Duration = 50 * 60
    grey_timeout: Duration = 200 * 60
    white_timeout: Duration = 36 * 86400
    ipv4_prefix: int = Field(default=24, ge=0, le=32)
    ipv6_prefix: int = Field(default=64, ge=0, le=128)
    deny_late: bool = False
    text: str = "This mail is temporarily denied"
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


@lru_cache(maxsize=4096)
def network_of(ip: IPv4Address | IPv6Address, prefix: int) -> str:
    """Return the network that a client stands for; a busy client's is asked for again and again."""
    return str(ip_network((ip, prefix), strict=False))


class Greylist(Plugin[Options]):
    """Remembers contacts in the store."""

    async def rcpt(self, transaction: Transaction, recipient: Recipient) -> DenySoft | None:
        options = self.options(recipient)
        if options.deny_late or transaction.sender.is_null:
            return None
        early = await self._is_early(recipient, options)
        return DenySoft(options.text, code=450) if early else None

    def data(self, transaction: Transaction) -> Coroutine[None, None, DenySoft | None] | None:
        options = self.options(transaction)
        if not options.deny_late and not transaction.sender.is_null:
            return None
        return self._data(transaction, options)

    async def _data(self, transaction: Transaction, options: Options) -> DenySoft | None:
        # Every contact is looked up, so that all of them grow old together.
        early = [await self._is_early(recipient, options) for recipient in transaction.accepted]
        return DenySoft(options.text, code=450) if any(early) else None

    async def _is_early(self, recipient: Recipient, options: Options) -> bool:
        """Record the contact, and return True if it is still to be refused."""

        def decide(entry: Entry | None, now: float) -> Put[bool] | Keep[bool]:
            black, grey, white = options.black_timeout, options.grey_timeout, options.white_timeout
            match entry.value if entry else None:
                case None:
                    return Put(now, now + black + grey, True)
                case int() | float() as first if now < first + black:
                    return Keep(True)
                case "white" if entry and now + white * FRESH < (entry.expires_at or 0) <= now + white:
                    return Keep(False)
                case _:
                    return Put("white", now + white, False)

        return await self.store.update(self._key(recipient, options), decide)

    def _key(self, recipient: Recipient, options: Options) -> str:
        parts = {
            "remote_ip": self._network(recipient, options),
            "sender": f"<{recipient.transaction.sender}>",
            "recipient": f"<{recipient.address}>",
        }
        key = " ".join(parts[part].lower() if part in options.key else "*" for part in parts)
        # Bytes that are not UTF-8 are legal to Postfix, but not to a store.
        return f"{self.name}:{key.encode(errors='backslashreplace').decode()}"

    def _network(self, recipient: Recipient, options: Options) -> str:
        ip = recipient.transaction.session.ip
        if ip is None:
            return "unknown"
        return network_of(ip, options.ipv4_prefix if ip.version == 4 else options.ipv6_prefix)
