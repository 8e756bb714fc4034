"""Which addresses Postfix's smtpd takes for unknown, and by which parameter: check_rcpt_maps in smtpd/smtpd_check.c.

The class of a domain is trivial-rewrite(8)'s business and so main.cf's (trivial-rewrite/resolve.c); the maps are those
of the service. Not followed: transport_maps and relocated_maps that lead to the error transport.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gatepost.ops.postfix.doctor.lookup import Style, Tables, Unanswered, match_domains

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from gatepost.address import Address

AddressClass = Literal["local", "alias", "virtual", "relay", "default"]

DOMAINS = {
    "local": "mydestination",
    "alias": "virtual_alias_domains",
    "virtual": "virtual_mailbox_domains",
    "relay": "relay_domains",
}
"""The list of each class's domains, in the order in which Postfix asks."""

MAPS = {"local": "local_recipient_maps", "virtual": "virtual_mailbox_maps", "relay": "relay_recipient_maps"}
TRANSPORTS = {
    "local": "local_transport",
    "virtual": "virtual_transport",
    "relay": "relay_transport",
    "default": "default_transport",
}

_REWRITING = ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps")
"""Whatever these know is taken for a recipient, before all else."""


class Routing:
    """Postfix's view of addresses, for one set of domains; `main` are main.cf's values."""

    def __init__(self, tables: Tables, main: Mapping[str, str], domains: Collection[str]) -> None:
        self._tables = tables
        self._main = main
        self.origin = _origin(main.get("myorigin", ""))
        self.unanswered: dict[str, str] = {}
        """Parameters that could not be judged, each with the reason."""
        self._classes = self._classify({*domains, self.origin})

    def class_of(self, domain: str) -> AddressClass | None:
        """Return the class of a domain, an empty one being $myorigin; None if that cannot be told."""
        return self._classes.get(domain or self.origin)

    def unknown(self, values: Mapping[str, str], addresses: Iterable[Address]) -> dict[Address, str]:
        """Return the addresses that a service with these values refuses, each with the parameter that does it."""
        left = {one for one in addresses if self.class_of(one.domain) is not None and not self._is_always_known(one)}
        for name in _REWRITING:
            left -= self._found(name, values.get(name, ""), left)
        always = {"postmaster", "mailer-daemon", self._main.get("double_bounce_sender", "")}
        refused: dict[Address, str] = {}
        for kind in ("local", "alias", "virtual", "relay", "default"):
            members = {one for one in left if self.class_of(one.domain) == kind}
            if kind == "alias":
                # Whatever is in no virtual_alias_maps is unknown there.
                refused |= dict.fromkeys(members, "virtual_alias_maps")
                continue
            transport = self._main.get(TRANSPORTS[kind], "")
            if transport.partition(":")[0] == "error":
                refused |= dict.fromkeys(members, TRANSPORTS[kind])
                continue
            name = MAPS.get(kind, "")
            maps = values.get(name, "")
            if not maps:
                continue
            if kind == "local":
                members -= {one for one in members if one.local.lower() in always}
            members -= self._found(name, maps, members)
            if name not in self.unanswered:
                refused |= dict.fromkeys(members, name)
        return {one: name for one, name in refused.items() if self.unanswered.keys().isdisjoint((*_REWRITING, name))}

    def _found(self, name: str, maps: str, addresses: Collection[Address]) -> set[Address]:
        named = {f"{one.local}@{one.domain or self.origin}": one for one in addresses}
        try:
            known = self._tables.known(maps, {text: self._keys(one) for text, one in named.items()})
        except Unanswered as error:
            self.unanswered[name] = str(error)
            return set()
        return {named[text] for text in known}

    def _keys(self, address: Address) -> tuple[str, ...]:
        """What is looked up for an address, in the order of global/mail_addr_find.c."""
        domain = address.domain or self.origin
        delimiters = self._main.get("recipient_delimiter", "")
        cut = next((at for at, letter in enumerate(address.local) if at and letter in delimiters), None)
        locals_ = (address.local,) if cut is None else (address.local, address.local[:cut])
        keys = [f"{local}@{domain}" for local in locals_]
        if domain == self.origin or self.class_of(domain) == "local":
            keys += locals_
        return (*keys, f"@{domain}")

    def _classify(self, domains: Collection[str]) -> dict[str, AddressClass]:
        found: dict[str, AddressClass] = {}
        left = set(domains)
        parents = "relay_domains" in self._main.get("parent_domain_matches_subdomains", "")
        for kind in ("local", "alias", "virtual", "relay"):
            name = DOMAINS[kind]
            try:
                style: Style = "exact" if kind != "relay" else "parents" if parents else "dotted"
                members = match_domains(self._tables, self._main.get(name, ""), left, style)
            except Unanswered as error:
                # The classes after this one cannot be told either.
                self.unanswered[name] = str(error)
                return found
            if kind == "local":
                # Literals of our own interfaces; whose they are is no matter where they are only listed.
                members |= {domain for domain in left if domain.startswith("[")}
            found |= dict.fromkeys(members, _class(kind))
            left -= members
        return found | dict.fromkeys(left, "default")

    def _is_always_known(self, address: Address) -> bool:
        """<postmaster> without a domain, and the sender of Postfix's own probes."""
        if not address.domain:
            return address.local.lower() == "postmaster"
        return address.domain == self.origin and address.local.lower() == self._main.get("double_bounce_sender")


def _class(name: str) -> AddressClass:
    match name:
        case "local" | "alias" | "virtual" | "relay":
            return name
    return "default"


def _origin(value: str) -> str:
    """$myorigin, which may name a file that holds it (Debian's /etc/mailname)."""
    if not value.startswith("/"):
        return value.lower()
    try:
        return Path(value).read_text(errors="surrogateescape").split()[0].lower()
    except (OSError, IndexError):
        return ""
