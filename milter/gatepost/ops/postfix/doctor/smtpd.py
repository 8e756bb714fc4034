"""What is in force in one smtpd service: main.cf, its own `-o` settings over it, and `stress`, as postconf says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatepost.ops.postfix import value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.ops.postfix.postconf import Postconf, Service

PARAMETERS = (
    "canonical_maps",
    "content_filter",
    "default_process_limit",
    "default_transport",
    "double_bounce_sender",
    "inet_interfaces",
    "local_recipient_maps",
    "local_transport",
    "mail_owner",
    "mail_version",
    "message_size_limit",
    "milter_command_timeout",
    "milter_connect_timeout",
    "milter_content_timeout",
    "milter_default_action",
    "milter_macro_daemon_name",
    "milter_protocol",
    "mydestination",
    "myhostname",
    "myorigin",
    "non_smtpd_milters",
    "parent_domain_matches_subdomains",
    "receive_override_options",
    "recipient_canonical_maps",
    "recipient_delimiter",
    "relay_domains",
    "relay_recipient_maps",
    "relay_transport",
    "smtpd_authorized_xforward_hosts",
    "smtpd_client_restrictions",
    "smtpd_discard_ehlo_keywords",
    "smtpd_forbid_bare_newline",
    "smtpd_forbid_bare_newline_exclusions",
    "smtpd_hard_error_limit",
    "smtpd_helo_restrictions",
    "smtpd_milter_maps",
    "smtpd_milters",
    "smtpd_proxy_filter",
    "smtpd_proxy_options",
    "smtpd_proxy_timeout",
    "smtpd_recipient_restrictions",
    "smtpd_reject_unlisted_recipient",
    "smtpd_relay_restrictions",
    "smtpd_sasl_auth_enable",
    "smtpd_sender_restrictions",
    "smtpd_timeout",
    "virtual_alias_domains",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "virtual_transport",
)
"""Every parameter that the doctor looks at."""

_SUBMISSION = frozenset({"submission", "submissions", "smtps", "587", "465"})
"""Names and ports of services that are for users who log in, and for nothing else (RFC 6409, RFC 8314)."""


@dataclass(frozen=True, slots=True)
class Smtpd:
    """One smtpd service; `values` as it sees them, `stressed` when all its processes are busy, `written` unexpanded.

    What this Postfix does not have is in none of them.
    """

    service: Service
    values: Mapping[str, str]
    stressed: Mapping[str, str]
    written: Mapping[str, str]

    @classmethod
    def read(cls, postconf: Postconf, service: Service) -> Smtpd:
        """Ask postconf, with the service's own settings over main.cf's: just what master(8) starts it with."""
        own = {name: text for name, text in service.options.items() if re.fullmatch(r"\w+", name)}
        return cls(
            service,
            values=postconf.values(*PARAMETERS, expand=True, over=own),
            stressed=postconf.values(*PARAMETERS, expand=True, over={**own, "stress": "yes"}),
            written=postconf.values(*PARAMETERS, over=own),
        )

    @property
    def key(self) -> str:
        """NAME/TYPE."""
        return self.service.key

    def text(self, name: str) -> str:
        """The value, empty where there is none."""
        return self.values.get(name, "")

    def words(self, name: str) -> tuple[str, ...]:
        """The value of a plain list."""
        return tuple(word for word in re.split(r"[\s,]+", self.text(name)) if word)

    def yes(self, name: str) -> bool:
        """Whether a switch is on; Postfix takes `YES`, too (global/mail_conf_bool.c)."""
        return self.text(name).lower() == "yes"

    def seconds(self, name: str) -> int | None:
        """A time in seconds, None for what is none."""
        return value.seconds(self.text(name))

    def shown(self, name: str) -> str:
        """`NAME = VALUE`, and where it comes from if not from this service's entry."""
        return f"{name} = {self.text(name) or '(empty)'}" + (
            "" if name in self.service.options else " (main.cf or default)"
        )

    @property
    def is_for_users(self) -> bool:
        """Whether it is a submission service at which users log in."""
        name = self.key.rpartition("/")[0].rpartition(":")[2]
        return name in _SUBMISSION and self.yes("smtpd_sasl_auth_enable")

    @property
    def process_limit(self) -> int | None:
        """How many processes there may be, which is clients at once; None for no limit (master(5))."""
        column = self.service.fields["process_limit"]
        if column == "-":
            column = self.text("default_process_limit")
        return int(column) if column.isdecimal() and int(column) else None
