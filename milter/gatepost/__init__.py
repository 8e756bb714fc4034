"""gatepost: rules in Python for mail before Postfix queues it.

What is imported here is the whole public API for plugin authors; `gatepost.testing` is their test kit.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gatepost.action import Action, denial, parse_action
from gatepost.address import Address
from gatepost.errors import ConfigError, ConfigErrors, Unavailable
from gatepost.message import Body, Header, Headers, Message, Part
from gatepost.option import Fixed, NeedsEdge, Overrides, PluginOptions
from gatepost.plugin import Plugin
from gatepost.quantity import Duration, Size
from gatepost.services.address_list import AddressList, Listing
from gatepost.services.client_table import ClientTable, split_client_line
from gatepost.services.list_file import parse_lines
from gatepost.services.network import PRIVATE_NETWORKS
from gatepost.services.store import Entry, Keep, Put, Remove
from gatepost.services.watched_file import WatchedFile
from gatepost.services.zone import Zone, ZoneOptions
from gatepost.session import Recipient, Session, Transaction
from gatepost.smtp.reply import Reply
from gatepost.verdict import Declined, Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Ok, Verdict

if TYPE_CHECKING:
    from gatepost.services.dns import Resolver
    from gatepost.services.dns_answer import Answer, Mx
    from gatepost.services.rate_limit import Charge, RateLimiter, Rates
    from gatepost.services.zone_inquiry import ZoneInquiry, ZoneQuestion

__all__ = [
    "PRIVATE_NETWORKS",
    "Action",
    "Address",
    "AddressList",
    "Answer",
    "Body",
    "Charge",
    "ClientTable",
    "ConfigError",
    "ConfigErrors",
    "Declined",
    "Deny",
    "DenyDisconnect",
    "DenySoft",
    "DenySoftDisconnect",
    "Duration",
    "Entry",
    "Fixed",
    "Header",
    "Headers",
    "Keep",
    "Listing",
    "Message",
    "Mx",
    "NeedsEdge",
    "Ok",
    "Overrides",
    "Part",
    "Plugin",
    "PluginOptions",
    "Put",
    "RateLimiter",
    "Rates",
    "Recipient",
    "Remove",
    "Reply",
    "Resolver",
    "Session",
    "Size",
    "Transaction",
    "Unavailable",
    "Verdict",
    "WatchedFile",
    "Zone",
    "ZoneInquiry",
    "ZoneOptions",
    "ZoneQuestion",
    "denial",
    "parse_action",
    "parse_lines",
    "split_client_line",
]

_LATE = dict.fromkeys(("Charge", "RateLimiter", "Rates"), "gatepost.services.rate_limit")
_LATE |= {"Answer": "gatepost.services.dns_answer", "Mx": "gatepost.services.dns_answer"}
_LATE |= {"Resolver": "gatepost.services.dns"}
_LATE |= dict.fromkeys(("ZoneInquiry", "ZoneQuestion"), "gatepost.services.zone_inquiry")
"""What brings a large library with it, and is imported only when a plugin asks for it."""

# Type checkers must not see it: they would then believe that any name can be imported.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a late name."""
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATE[name]), name)
