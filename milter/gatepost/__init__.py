"""gatepost: rules in Python for mail before Postfix queues it.

What is imported here is the whole public API for plugin authors; `gatepost.testing` is their test kit.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gatepost.action import Action, MessageAction, denial, parse_action
from gatepost.address import Address
from gatepost.authentication import MethodResult, keep_results, method_result, results_of
from gatepost.domain_name import DomainName
from gatepost.endpoint import Endpoint, Servers
from gatepost.errors import ConfigError, ConfigErrors, Unavailable
from gatepost.message.message import Body, Header, Headers, Message, Part
from gatepost.option import Fixed, NeedsEdge, Overrides, PluginOptions
from gatepost.plugin import Plugin
from gatepost.quantity import Duration, Size
from gatepost.services.lists.address_list import AddressList, Listing
from gatepost.services.lists.client_table import ClientTable, split_client_line
from gatepost.services.lists.list_file import parse_lines
from gatepost.services.lists.network import PRIVATE_NETWORKS
from gatepost.services.lists.watched_file import WatchedFile
from gatepost.services.lists.zone import Zone, ZoneOptions
from gatepost.services.scanners.upstream import Upstreams
from gatepost.services.store.store import Entry, Keep, Put, Remove
from gatepost.session import Recipient, Session, Transaction
from gatepost.smtp.reply import Reply
from gatepost.verdict import Declined, Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Ok, Verdict

if TYPE_CHECKING:
    from gatepost.services.authentication.arc_chain import ArcChain as ArcChain
    from gatepost.services.authentication.arc_chain import check_chain as check_chain
    from gatepost.services.authentication.authentication_field import AUTHENTICATION_RESULTS as AUTHENTICATION_RESULTS
    from gatepost.services.authentication.authentication_field import claiming as claiming
    from gatepost.services.authentication.authentication_field import results_field as results_field
    from gatepost.services.authentication.author import author_domains as author_domains
    from gatepost.services.authentication.author import claimed_domain as claimed_domain
    from gatepost.services.authentication.author import is_within as is_within
    from gatepost.services.authentication.dkim_check import DkimPolicy as DkimPolicy
    from gatepost.services.authentication.dkim_check import check_signatures as check_signatures
    from gatepost.services.authentication.dkim_key_table import DkimKeyTable as DkimKeyTable
    from gatepost.services.authentication.dkim_signer import DkimForm as DkimForm
    from gatepost.services.authentication.dkim_signer import sign_message as sign_message
    from gatepost.services.authentication.dmarc_check import DmarcFinding as DmarcFinding
    from gatepost.services.authentication.dmarc_check import check_dmarc as check_dmarc
    from gatepost.services.authentication.spf_check import SpfFinding as SpfFinding
    from gatepost.services.authentication.spf_check import SpfIdentity as SpfIdentity
    from gatepost.services.authentication.spf_check import check_host as check_host
    from gatepost.services.content.attachments import Attachment as Attachment
    from gatepost.services.content.attachments import Contents as Contents
    from gatepost.services.content.attachments import list_contents as list_contents
    from gatepost.services.content.file_name import deception as deception
    from gatepost.services.content.file_name import extensions as extensions
    from gatepost.services.content.file_name import plain_name as plain_name
    from gatepost.services.content.file_type import FileType as FileType
    from gatepost.services.content.message_archive import MessageArchive as MessageArchive
    from gatepost.services.content.message_archive import append_line as append_line
    from gatepost.services.content.mime_fault import SERIOUS_FAULTS as SERIOUS_FAULTS
    from gatepost.services.content.mime_fault import MimeFault as MimeFault
    from gatepost.services.content.part_tree import message_leaves as message_leaves
    from gatepost.services.content.urls import LinkedHost as LinkedHost
    from gatepost.services.content.urls import Links as Links
    from gatepost.services.content.urls import find_links as find_links
    from gatepost.services.content.urls import registered_domains as registered_domains
    from gatepost.services.dns.answer import Answer as Answer
    from gatepost.services.dns.answer import Mx as Mx
    from gatepost.services.dns.resolver import Resolver as Resolver
    from gatepost.services.lists.zone_inquiry import ZoneInquiry as ZoneInquiry
    from gatepost.services.lists.zone_inquiry import ZoneQuestion as ZoneQuestion
    from gatepost.services.scanners.clamd import ClamdAnswer as ClamdAnswer
    from gatepost.services.scanners.clamd import clamd_ping as clamd_ping
    from gatepost.services.scanners.clamd import clamd_scan as clamd_scan
    from gatepost.services.scanners.rspamd import Unscannable as Unscannable
    from gatepost.services.scanners.rspamd import rspamd_check as rspamd_check
    from gatepost.services.scanners.rspamd import rspamd_ping as rspamd_ping
    from gatepost.services.scanners.rspamd_answer import RspamdAnswer as RspamdAnswer
    from gatepost.services.scanners.spamd import SpamReport as SpamReport
    from gatepost.services.scanners.spamd import spamd_ping as spamd_ping
    from gatepost.services.scanners.spamd import spamd_scan as spamd_scan
    from gatepost.services.scanners.trace_field import with_envelope as with_envelope
    from gatepost.services.store.rate_limit import Charge as Charge
    from gatepost.services.store.rate_limit import RateLimiter as RateLimiter
    from gatepost.services.store.rate_limit import Rates as Rates

__all__ = [
    "PRIVATE_NETWORKS",
    "Action",
    "Address",
    "AddressList",
    "Body",
    "ClientTable",
    "ConfigError",
    "ConfigErrors",
    "Declined",
    "Deny",
    "DenyDisconnect",
    "DenySoft",
    "DenySoftDisconnect",
    "DomainName",
    "Duration",
    "Endpoint",
    "Entry",
    "Fixed",
    "Header",
    "Headers",
    "Keep",
    "Listing",
    "Message",
    "MessageAction",
    "MethodResult",
    "NeedsEdge",
    "Ok",
    "Overrides",
    "Part",
    "Plugin",
    "PluginOptions",
    "Put",
    "Recipient",
    "Remove",
    "Reply",
    "Servers",
    "Session",
    "Size",
    "Transaction",
    "Unavailable",
    "Upstreams",
    "Verdict",
    "WatchedFile",
    "Zone",
    "ZoneOptions",
    "denial",
    "keep_results",
    "method_result",
    "parse_action",
    "parse_lines",
    "results_of",
    "split_client_line",
]

_LATE = dict.fromkeys(("Charge", "RateLimiter", "Rates"), "gatepost.services.store.rate_limit")
_LATE |= {"Answer": "gatepost.services.dns.answer", "Mx": "gatepost.services.dns.answer"}
_LATE |= {"Resolver": "gatepost.services.dns.resolver"}
_LATE |= dict.fromkeys(
    ("AUTHENTICATION_RESULTS", "claiming", "results_field"), "gatepost.services.authentication.authentication_field"
)
_LATE |= dict.fromkeys(("author_domains", "claimed_domain", "is_within"), "gatepost.services.authentication.author")
_LATE |= dict.fromkeys(("DmarcFinding", "check_dmarc"), "gatepost.services.authentication.dmarc_check")
_LATE |= dict.fromkeys(("ArcChain", "check_chain"), "gatepost.services.authentication.arc_chain")
_LATE |= dict.fromkeys(("DkimPolicy", "check_signatures"), "gatepost.services.authentication.dkim_check")
_LATE |= {"DkimKeyTable": "gatepost.services.authentication.dkim_key_table"}
_LATE |= dict.fromkeys(("DkimForm", "sign_message"), "gatepost.services.authentication.dkim_signer")
_LATE |= dict.fromkeys(("SpfFinding", "SpfIdentity", "check_host"), "gatepost.services.authentication.spf_check")
_LATE |= dict.fromkeys(("Unscannable", "rspamd_check", "rspamd_ping"), "gatepost.services.scanners.rspamd")
_LATE |= {"RspamdAnswer": "gatepost.services.scanners.rspamd_answer"}
_LATE |= dict.fromkeys(("ZoneInquiry", "ZoneQuestion"), "gatepost.services.lists.zone_inquiry")
_LATE |= dict.fromkeys(("ClamdAnswer", "clamd_ping", "clamd_scan"), "gatepost.services.scanners.clamd")
_LATE |= dict.fromkeys(("SpamReport", "spamd_ping", "spamd_scan"), "gatepost.services.scanners.spamd")
_LATE |= {"with_envelope": "gatepost.services.scanners.trace_field"}
_LATE |= dict.fromkeys(("Links", "LinkedHost", "find_links", "registered_domains"), "gatepost.services.content.urls")
_LATE |= dict.fromkeys(("Attachment", "Contents", "list_contents"), "gatepost.services.content.attachments")
_LATE |= dict.fromkeys(("deception", "extensions", "plain_name"), "gatepost.services.content.file_name")
_LATE |= {"FileType": "gatepost.services.content.file_type"}
_LATE |= dict.fromkeys(("SERIOUS_FAULTS", "MimeFault"), "gatepost.services.content.mime_fault")
_LATE |= {"message_leaves": "gatepost.services.content.part_tree"}
_LATE |= dict.fromkeys(("MessageArchive", "append_line"), "gatepost.services.content.message_archive")
"""What brings a large library with it, or is for few plugins: imported when one asks for it by name, and so not in
`__all__`. `as` says to type checkers that it is public, too."""

# Type checkers must not see it: they would then believe that any name can be imported.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a late name."""
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATE[name]), name)
