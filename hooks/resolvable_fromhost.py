"""resolvable_fromhost: refuses mail from a sender whose domain cannot get any: nobody could answer, no bounce arrives.

The domain needs an MX, or else an address; and one of the hosts that it comes to must have an address that the Internet
can reach. That is mostly two DNS look-ups a message, or none where the cache has the answers.

HOOKS
    rcpt        each recipient, so that `resolvable_fromhost=off` for one of them holds

OPTIONS
    action              "defer": for a domain that does not resolve. Not "deny", because a name server that has lost a
                        zone for an hour, an expired registration or a domain that is newer than a cached answer look
                        just the same, and a mail server tries again while a spammer mostly does not; so does Postfix
                        (unknown_address_reject_code)
    null_mx_action      "deny": for a domain that says that it has no mail (RFC 7505), so nothing can be sent from it
    invalid_networks    where no mail host is that the Internet can reach: the loopback, private, link-local, shared
                        (100.64.0.0/10), multicast and reserved networks of IPv4 and IPv6. A list given here takes the
                        place of these. Those for documentation (192.0.2.0/24 and its like) are not among them
    skip_authenticated  true: the mail of a client that has logged in is not looked at
    skip_whitelisted    true: nor what is whitelisted

    Machines of your own that send as root@host.internal: `resolvable_fromhost=off` for their network in the file of
    `client_options`. Not asked about: the null sender, and a sender without a domain, which Postfix completes with your
    own (myorigin).

REPLIES
    450 4.1.8 sender domain example.net does not exist
    450 4.1.8 sender domain example.net has neither MX nor address
    450 4.1.8 no mail host of sender domain example.net has an address
    450 4.1.8 sender domain example.net has no mail host with a public address: 127.0.0.1
    450 4.1.8 sender domain [10.1.2.3] is no public address
    550 5.7.27 sender domain example.net does not accept mail (null MX)
    550 5.1.8 ... with action = "deny"; 421 and 521 with those that disconnect

FAILURE
    When DNS does not answer (SERVFAIL, timeout) and what is known does not settle it, on_unavailable decides: "defer"
    (451) or "pass".
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from pydantic import IPvAnyNetwork

from gatepost import Action, Plugin, PluginOptions, Recipient, Transaction, Unavailable, Verdict, denial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Sequence

INVALID_NETWORKS = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/96", "fc00::/7", "fe80::/10", "ff00::/8"),
)

MX_LIMIT = 10
"""So many mail hosts are looked at, the preferred first: as many as RFC 7208 lets SPF ask about."""

Ip = IPv4Address | IPv6Address


class Options(PluginOptions):
    """What the manual above says."""

    action: Action = "defer"
    null_mx_action: Action = "deny"
    invalid_networks: tuple[IPvAnyNetwork, ...] = tuple(map(ip_network, INVALID_NETWORKS))
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class ResolvableFromhost(Plugin[Options]):
    """Looks the sender's domain up."""

    def rcpt(
        self, transaction: Transaction, recipient: Recipient
    ) -> Coroutine[None, None, Verdict | None] | Verdict | None:
        options = self.options(recipient)
        domain = transaction.sender.domain
        if not domain:
            return None
        if domain.startswith("["):
            return _literal_verdict(domain, options)
        return self._verdict(domain, options)

    async def _verdict(self, domain: str, options: Options) -> Verdict | None:
        exchangers = await self.dns.mx(domain)
        if exchangers and all(exchanger.is_null for exchanger in exchangers):
            text = f"sender domain {_shown(domain)} does not accept mail (null MX)"
            return denial(options.null_mx_action, text, enhanced="5.7.27")
        if not exchangers and not (await self.dns.query(domain, "MX")).exists:
            return _denial(options, f"sender domain {_shown(domain)} does not exist")
        hosts = [exchanger.host for exchanger in exchangers[:MX_LIMIT]]
        # Without an MX the domain is its own mail host (RFC 5321 section 5.1).
        found = await self._addresses(hosts or [domain], options)
        if any(_is_public(ip, options) for ip in found):
            return None
        if found:
            where = ", ".join(sorted(map(str, found))[:3])
            return _denial(options, f"sender domain {_shown(domain)} has no mail host with a public address: {where}")
        if hosts:
            return _denial(options, f"no mail host of sender domain {_shown(domain)} has an address")
        return _denial(options, f"sender domain {_shown(domain)} has neither MX nor address")

    async def _addresses(self, hosts: Sequence[str], options: Options) -> set[Ip]:
        """Return the addresses of the hosts, or as many as are needed to see that one is public.

        Raises Unavailable if none is, and some could not be asked for.
        """
        problems: list[Unavailable] = []

        async def ask(answer: Awaitable[Sequence[Ip]]) -> set[Ip]:
            try:
                return set(await answer)
            except Unavailable as problem:
                problems.append(problem)
                return set()

        # Nearly always this is all that has to be known.
        found = await ask(self.dns.a(hosts[0]))
        if not any(_is_public(ip, options) for ip in found):
            # Each type for itself, not dns.addresses: a server that fails for AAAA alone must not hide an A.
            rest = [self.dns.aaaa(host) for host in hosts] + [self.dns.a(host) for host in hosts[1:]]
            found = found.union(*await asyncio.gather(*map(ask, rest)))
            if problems and not any(_is_public(ip, options) for ip in found):
                raise problems[0]
        return found


def _literal_verdict(domain: str, options: Options) -> Verdict | None:
    """Judge an address in place of a domain: `[192.0.2.1]`, `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3)."""
    try:
        ip = ip_address(domain.removeprefix("[").removesuffix("]").removeprefix("ipv6:"))
    except ValueError:
        return _denial(options, f"sender domain {_shown(domain)} is no address")
    return None if _is_public(ip, options) else _denial(options, f"sender domain {_shown(domain)} is no public address")


def _is_public(ip: Ip, options: Options) -> bool:
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return not any(ip in network for network in options.invalid_networks)


def _denial(options: Options, text: str) -> Verdict | None:
    return denial(options.action, text, enhanced="5.1.8")


def _shown(domain: str) -> str:
    """Return the domain as a reply can have it: a client may say any length, and anything."""
    return "".join(char if char.isprintable() else "?" for char in domain[:253])
