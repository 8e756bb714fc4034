"""gatepost: rules in Python for mail before Postfix queues it.

What is imported here is the whole public API for plugin authors; `gatepost.testing` is their test kit.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gatepost.action import Action, denial, parse_action
from gatepost.address import Address
from gatepost.authentication import MethodResult, keep_results, method_result, results_of
from gatepost.endpoint import Endpoint, Servers
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
from gatepost.services.upstream import Upstreams
from gatepost.services.watched_file import WatchedFile
from gatepost.services.zone import Zone, ZoneOptions
from gatepost.session import Recipient, Session, Transaction
from gatepost.smtp.reply import Reply
from gatepost.verdict import Declined, Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Ok, Verdict

if TYPE_CHECKING:
    from gatepost.services.arc_chain import ArcChain, check_chain
    from gatepost.services.attachments import Attachment, Contents, list_contents
    from gatepost.services.authentication_field import AUTHENTICATION_RESULTS, claiming, results_field
    from gatepost.services.clamd import ClamdAnswer, clamd_ping, clamd_scan
    from gatepost.services.dkim_author import author_domain, is_within
    from gatepost.services.dkim_check import DkimPolicy, check_signatures
    from gatepost.services.dkim_key_table import DkimKeyTable
    from gatepost.services.dkim_signer import DkimForm, sign_message
    from gatepost.services.dmarc_author import author_domains
    from gatepost.services.dmarc_check import DmarcFinding, check_dmarc
    from gatepost.services.dns import Resolver
    from gatepost.services.dns_answer import Answer, Mx
    from gatepost.services.file_name import deception, extensions, plain_name
    from gatepost.services.file_type import FileType
    from gatepost.services.message_archive import MessageArchive, append_line
    from gatepost.services.mime_fault import SERIOUS_FAULTS, MimeFault
    from gatepost.services.part_tree import message_leaves
    from gatepost.services.rate_limit import Charge, RateLimiter, Rates
    from gatepost.services.rspamd import Unscannable, rspamd_check, rspamd_ping
    from gatepost.services.rspamd_answer import RspamdAnswer
    from gatepost.services.spamd import SpamReport, spamd_ping, spamd_scan
    from gatepost.services.spf_check import SpfFinding, SpfIdentity, check_host
    from gatepost.services.trace_field import with_envelope
    from gatepost.services.urls import LinkedHost, Links, find_links, registered_domains
    from gatepost.services.zone_inquiry import ZoneInquiry, ZoneQuestion

__all__ = [
    "AUTHENTICATION_RESULTS",
    "PRIVATE_NETWORKS",
    "SERIOUS_FAULTS",
    "Action",
    "Address",
    "AddressList",
    "Answer",
    "ArcChain",
    "Attachment",
    "Body",
    "Charge",
    "ClamdAnswer",
    "ClientTable",
    "ConfigError",
    "ConfigErrors",
    "Contents",
    "Declined",
    "Deny",
    "DenyDisconnect",
    "DenySoft",
    "DenySoftDisconnect",
    "DkimForm",
    "DkimKeyTable",
    "DkimPolicy",
    "DmarcFinding",
    "Duration",
    "Endpoint",
    "Entry",
    "FileType",
    "Fixed",
    "Header",
    "Headers",
    "Keep",
    "LinkedHost",
    "Links",
    "Listing",
    "Message",
    "MessageArchive",
    "MethodResult",
    "MimeFault",
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
    "RspamdAnswer",
    "Servers",
    "Session",
    "Size",
    "SpamReport",
    "SpfFinding",
    "SpfIdentity",
    "Transaction",
    "Unavailable",
    "Unscannable",
    "Upstreams",
    "Verdict",
    "WatchedFile",
    "Zone",
    "ZoneInquiry",
    "ZoneOptions",
    "ZoneQuestion",
    "append_line",
    "author_domain",
    "author_domains",
    "check_chain",
    "check_dmarc",
    "check_host",
    "check_signatures",
    "claiming",
    "clamd_ping",
    "clamd_scan",
    "deception",
    "denial",
    "extensions",
    "find_links",
    "is_within",
    "keep_results",
    "list_contents",
    "message_leaves",
    "method_result",
    "parse_action",
    "parse_lines",
    "plain_name",
    "registered_domains",
    "results_field",
    "results_of",
    "rspamd_check",
    "rspamd_ping",
    "sign_message",
    "spamd_ping",
    "spamd_scan",
    "split_client_line",
    "with_envelope",
]

_LATE = dict.fromkeys(("Charge", "RateLimiter", "Rates"), "gatepost.services.rate_limit")
_LATE |= {"Answer": "gatepost.services.dns_answer", "Mx": "gatepost.services.dns_answer"}
_LATE |= {"Resolver": "gatepost.services.dns"}
_LATE |= dict.fromkeys(
    ("AUTHENTICATION_RESULTS", "claiming", "results_field"), "gatepost.services.authentication_field"
)
_LATE |= {"author_domains": "gatepost.services.dmarc_author"}
_LATE |= dict.fromkeys(("DmarcFinding", "check_dmarc"), "gatepost.services.dmarc_check")
_LATE |= dict.fromkeys(("ArcChain", "check_chain"), "gatepost.services.arc_chain")
_LATE |= dict.fromkeys(("author_domain", "is_within"), "gatepost.services.dkim_author")
_LATE |= dict.fromkeys(("DkimPolicy", "check_signatures"), "gatepost.services.dkim_check")
_LATE |= {"DkimKeyTable": "gatepost.services.dkim_key_table"}
_LATE |= dict.fromkeys(("DkimForm", "sign_message"), "gatepost.services.dkim_signer")
_LATE |= dict.fromkeys(("SpfFinding", "SpfIdentity", "check_host"), "gatepost.services.spf_check")
_LATE |= dict.fromkeys(("Unscannable", "rspamd_check", "rspamd_ping"), "gatepost.services.rspamd")
_LATE |= {"RspamdAnswer": "gatepost.services.rspamd_answer"}
_LATE |= dict.fromkeys(("ZoneInquiry", "ZoneQuestion"), "gatepost.services.zone_inquiry")
_LATE |= dict.fromkeys(("ClamdAnswer", "clamd_ping", "clamd_scan"), "gatepost.services.clamd")
_LATE |= dict.fromkeys(("SpamReport", "spamd_ping", "spamd_scan"), "gatepost.services.spamd")
_LATE |= {"with_envelope": "gatepost.services.trace_field"}
_LATE |= dict.fromkeys(("Links", "LinkedHost", "find_links", "registered_domains"), "gatepost.services.urls")
_LATE |= dict.fromkeys(("Attachment", "Contents", "list_contents"), "gatepost.services.attachments")
_LATE |= dict.fromkeys(("deception", "extensions", "plain_name"), "gatepost.services.file_name")
_LATE |= {"FileType": "gatepost.services.file_type"}
_LATE |= dict.fromkeys(("SERIOUS_FAULTS", "MimeFault"), "gatepost.services.mime_fault")
_LATE |= {"message_leaves": "gatepost.services.part_tree"}
_LATE |= dict.fromkeys(("MessageArchive", "append_line"), "gatepost.services.message_archive")
"""What brings a large library with it, and is imported only when a plugin asks for it."""

# Type checkers must not see it: they would then believe that any name can be imported.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a late name."""
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATE[name]), name)
