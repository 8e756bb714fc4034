"""gatepost: rules in Python for mail before Postfix queues it.

What is imported here is the whole public API for plugin authors; `gatepost.testing` is their test kit.
"""

from __future__ import annotations

from gatepost.action import Action, denial
from gatepost.address import Address
from gatepost.errors import ConfigError, ConfigErrors, Unavailable
from gatepost.message import Body, Header, Headers, Message, Part
from gatepost.option import Overrides, PluginOptions
from gatepost.plugin import Plugin
from gatepost.quantity import Duration, Size
from gatepost.services.store import Entry, Keep, Put, Remove
from gatepost.services.watched_file import WatchedFile
from gatepost.session import Recipient, Session, Transaction
from gatepost.verdict import Declined, Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Ok, Verdict

__all__ = [
    "Action",
    "Address",
    "Body",
    "ConfigError",
    "ConfigErrors",
    "Declined",
    "Deny",
    "DenyDisconnect",
    "DenySoft",
    "DenySoftDisconnect",
    "Duration",
    "Entry",
    "Header",
    "Headers",
    "Keep",
    "Message",
    "Ok",
    "Overrides",
    "Part",
    "Plugin",
    "PluginOptions",
    "Put",
    "Recipient",
    "Remove",
    "Session",
    "Size",
    "Transaction",
    "Unavailable",
    "Verdict",
    "WatchedFile",
    "denial",
]
