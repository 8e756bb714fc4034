"""What master.cf must hold for gatepost: the settings of a front and the whole inner service, each with its reason.

postfix/README.md shows the same table to the administrator; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.ops.postfix.postconf import Postconf, Service

DAEMON_NAME = "gatepost-content"
"""{daemon_name} of the content door's milter sessions, and the mark by which an inner service is known as ours."""

CARRIED = ("content_filter", "cleanup_service_name", "message_size_limit")
"""Settings of a front that decide what becomes of its mail behind the proxy: there the inner service does that work."""

INNER: tuple[tuple[str, str], ...] = (
    # Without this, main.cf's filter would send the inner's mail round in a circle (smtpd/smtpd.c, mail_cmd).
    ("smtpd_proxy_filter", ""),
    # Our connection begins with SMTP, not with a haproxy header or a TLS handshake.
    ("smtpd_upstream_proxy_protocol", ""),
    ("smtpd_tls_wrappermode", "no"),
    # XFORWARD tells the log and header rewriting who the client was; nobody else may say so.
    ("smtpd_authorized_xforward_hosts", "{networks}"),
    ("mynetworks", "{networks}"),
    # The front has checked all this against the real client; here it would be checked against localhost.
    ("smtpd_client_restrictions", ""),
    ("smtpd_helo_restrictions", ""),
    ("smtpd_sender_restrictions", ""),
    ("smtpd_relay_restrictions", ""),
    ("smtpd_recipient_restrictions", "permit_mynetworks,reject"),
    ("smtpd_data_restrictions", ""),
    ("smtpd_end_of_data_restrictions", ""),
    # The front knows its recipients; a plugin may name others.
    ("receive_override_options", "no_unknown_recipient_checks{overrides}"),
    # By XFORWARD SOURCE alone, so that a stranger's message gets no Message-Id, Date or From added.
    ("local_header_rewrite_clients", ""),
    ("smtpd_milters", "{milters}"),
    # A map that says DISABLE for localhost, as many do, would take our milter off (smtpd/smtpd.c, setup_milters).
    ("smtpd_milter_maps", ""),
    ("milter_macro_daemon_name", DAEMON_NAME),
    # With main.cf's `accept` and a dead socket the inner would answer 250 to mail that nobody looked at.
    ("milter_default_action", "tempfail"),
    ("milter_protocol", "6"),
    # All clients are one client here: no limits per client, no patience tests, no early end.
    ("smtpd_client_connection_count_limit", "0"),
    ("smtpd_client_event_limit_exceptions", "{networks}"),
    ("smtpd_timeout", "3600s"),
    ("smtpd_error_sleep_time", "0"),
    ("smtpd_soft_error_limit", "1001"),
    ("smtpd_hard_error_limit", "1000"),
    # XFORWARD and PIPELINING must be offered, whatever main.cf hides from the world.
    ("smtpd_discard_ehlo_keywords", ""),
    ("smtpd_discard_ehlo_keyword_address_maps", ""),
    ("smtpd_tls_security_level", "none"),
    ("smtpd_sasl_auth_enable", "no"),
    # The front adds the footer, and its filter has seen the command.
    ("smtpd_reject_footer", ""),
    ("smtpd_reject_footer_maps", ""),
    ("smtpd_command_filter", ""),
    # SMTP smuggling: 3.7's default is `no`, and $mynetworks is exempt.
    ("smtpd_forbid_bare_newline", "{bare_newline}"),
    ("smtpd_forbid_bare_newline_exclusions", ""),
)
"""Every `-o` of the inner service; words in braces are filled in, what this Postfix does not have is left out."""

FRONT: tuple[tuple[str, str], ...] = (
    ("smtpd_proxy_filter", "{filter}"),
    ("smtpd_forbid_bare_newline", "{bare_newline}"),
    ("smtpd_forbid_bare_newline_exclusions", ""),
)

_NORMALIZE_SINCE = "smtpd_forbid_bare_newline_reject_code"
"""Came in the same release as the value `normalize`; before it the parameter is a boolean (3.7.9: `yes`)."""

PARAMETERS = frozenset((*dict(INNER), *dict(FRONT), *CARRIED, _NORMALIZE_SINCE))
"""Every parameter of which we must know whether this Postfix has it."""

FIELDS = ("private", "unprivileged", "chroot", "wakeup", "process_limit", "command")


@dataclass(frozen=True, slots=True)
class Entry:
    """What one service must hold; anything it does not name is the administrator's and stays.

    In `options` None means that the `-o` must not be there. `fields` are empty for a front.
    """

    service: str
    fields: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str | None] = field(default_factory=dict)


def front(service: str, known: frozenset[str], proxy_filter: str, milters: Mapping[str, str | None]) -> Entry:
    """The settings of a front; `milters` are what was decided about milters of its own."""
    values = {"filter": proxy_filter, "bare_newline": _bare_newline(known)}
    return Entry(service, options={**_fill(FRONT, known, values), **milters})


def inner(
    service: str,
    known: frozenset[str],
    *,
    chroot: str,
    networks: str,
    milters: str,
    overrides: str,
    carried: Mapping[str, str | None],
) -> Entry:
    """The inner service; `overrides` and `carried` come from the fronts (`fronts.carried`)."""
    # Not private, for it is inet; no process limit, for one that is full lets the kernel accept and sends no banner.
    fields = {
        "private": "n",
        "unprivileged": "-",
        "chroot": chroot,
        "wakeup": "-",
        "process_limit": "0",
        "command": "smtpd",
    }
    values = {
        "networks": networks,
        "milters": milters,
        "overrides": overrides,
        "bare_newline": _bare_newline(known),
    }
    return Entry(service, fields, {**_fill(INNER, known, values), **carried})


def is_ours(service: Service) -> bool:
    """Whether this is an inner service of gatepost's, made by `apply` or by hand from the snippet."""
    return service.options.get("milter_macro_daemon_name") == DAEMON_NAME


def differences(entry: Entry, service: Service | None) -> tuple[str, ...]:
    """What `repair` would change, one line each for the administrator; empty when the entry is as it should be."""
    if service is None:
        return (f"{entry.service}: new service",)
    lines = [f"{entry.service}: {name} {value}" for name, value in _wrong_fields(entry, service).items()]
    for name, value in _wrong_options(entry, service).items():
        lines.append(f"{entry.service}: without -o {name}" if value is None else f"{entry.service}: -o {name}={value}")
    return tuple(lines)


def repair(postconf: Postconf, entry: Entry, service: Service | None) -> None:
    """Make the service in this directory hold what the entry says, and leave the rest of it alone."""
    if service is None:
        options = {name: value for name, value in entry.options.items() if value is not None}
        postconf.add_service(entry.service, tuple(entry.fields[name] for name in FIELDS), options)
        return
    for name, value in _wrong_fields(entry, service).items():
        postconf.set_field(entry.service, name, value)
    for name, wanted in _wrong_options(entry, service).items():
        if wanted is None:
            postconf.drop_option(entry.service, name)
        else:
            postconf.set_option(entry.service, name, wanted)


def _wrong_fields(entry: Entry, service: Service) -> dict[str, str]:
    # `command` holds the options too, and the program was looked at before (`plan`).
    return {
        name: value for name, value in entry.fields.items() if name != "command" and service.fields.get(name) != value
    }


def _wrong_options(entry: Entry, service: Service) -> dict[str, str | None]:
    return {name: value for name, value in entry.options.items() if service.options.get(name) != value}


def _fill(
    table: tuple[tuple[str, str], ...], known: frozenset[str], values: Mapping[str, str]
) -> dict[str, str | None]:
    return {name: value.format_map(values) for name, value in table if name in known}


def _bare_newline(known: frozenset[str]) -> str:
    return "normalize" if _NORMALIZE_SINCE in known else "yes"
