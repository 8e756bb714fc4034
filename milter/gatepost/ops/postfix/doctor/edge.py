"""The edge door: gatepost's milter on every front is the first there, fails closed and waits long enough.

Nothing here is asked while milter.edge is off; that gatepost's milter is on no front then is `milters`' business.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gatepost.ops.postfix import entry, milters, value
from gatepost.ops.postfix.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd

_OWN_SETTING = {"command_timeout": "milter_command_timeout", "connect_timeout": "milter_connect_timeout"}

_CONNECT_S = 10
"""A busy moment of gatepost's must not cost a client its session."""


def find(facts: Examination) -> Iterator[Finding]:
    """Look at every front, if the edge is on."""
    if not facts.config.milter.edge:
        return
    for front in facts.fronts:
        yield from _list(facts, front)
        yield from _service(facts, front)


def _list(facts: Examination, front: Smtpd) -> Iterator[Finding]:
    there = value.elements(front.text("smtpd_milters"))
    ours = [one for one in there if facts.is_ours(one)]
    shown = front.shown("smtpd_milters")
    problem = ""
    if not ours:
        problem = (
            f"{shown} lacks gatepost's milter ({facts.config.milter.socket}) although milter.edge is on: connect, "
            "HELO, logins, TLS and the recipients that Postfix refuses are unknown to gatepost"
        )
    elif len(ours) > 1:
        problem = f"{shown} has gatepost's milter {len(ours)} times: every hook would run as often"
    elif there[0] != ours[0]:
        problem = f"{shown}: {there[0]} comes before gatepost's milter, which does not hear of what that refuses"
    elif (action := _setting(front, ours[0], "default_action", "milter_default_action")) != "tempfail":
        problem = (
            f"{shown} has {action} for its default action: while gatepost is down or too slow, Postfix decides by "
            "this about clients; with accept it lets them past every hook, with reject it refuses them for good"
        )
    elif (protocol := _setting(front, ours[0], "protocol", "milter_protocol")) != "6":
        problem = (
            f"{shown} has milter protocol {protocol or '(empty)'}: before 6 Postfix tells a milter nothing of the "
            "recipients that it refuses itself"
        )
    else:
        problem = _impatient(facts, front, ours[0])
    if problem:
        yield Finding(front.key, "smtpd_milters", problem, "let apply set it", facts.remedies.apply())


def _impatient(facts: Examination, front: Smtpd, ours: str) -> str:
    limit_s = facts.config.milter.edge_timeout
    for name, least_s, why in (
        ("command_timeout", limit_s + milters.EDGE_MARGIN_S / 2, "Postfix gives up while hooks are still at work"),
        ("connect_timeout", _CONNECT_S, "a busy moment of gatepost's is enough for a refusal"),
    ):
        text = _setting(front, ours, name, _OWN_SETTING[name])
        seconds = value.seconds(text)
        if seconds is not None and seconds < least_s:
            return (
                f"smtpd_milters has {ours}, for which {name} = {text}: that is below {least_s:g}s "
                f"(milter.edge_timeout is {limit_s:g}s), and {why}"
            )
    return ""


def _setting(front: Smtpd, element: str, name: str, parameter: str) -> str:
    """What holds for one milter: its own setting, else the service's (milter/milter.c, milter_new)."""
    own = re.search(rf"[{{,\s]{name}\s*=\s*([^\s,}}]*)", element)
    return own[1] if own else front.text(parameter)


def _service(facts: Examination, front: Smtpd) -> Iterator[Finding]:
    if "no_milters" in front.words("receive_override_options"):
        left = ",".join(one for one in front.words("receive_override_options") if one != "no_milters")
        yield Finding(
            front.key,
            "receive_override_options",
            f"{front.shown('receive_override_options')}: no_milters takes gatepost's milter off, so that the edge door "
            "hears nothing",
            "remove no_milters here",
            facts.remedies.set_option(front.key, "receive_override_options", left),
        )
    if front.text("milter_macro_daemon_name") == entry.DAEMON_NAME:
        yield Finding(
            front.key,
            "milter_macro_daemon_name",
            f"{front.shown('milter_macro_daemon_name')}: that is the name by which gatepost knows the inner service, "
            "so it takes clients for its own connections",
            "give the front another name, or none",
            facts.remedies.set_option(front.key, "milter_macro_daemon_name", "$myhostname"),
        )
    if front.text("smtpd_milter_maps"):
        yield Finding(
            front.key,
            "smtpd_milter_maps",
            f"{front.shown('smtpd_milter_maps')}: clients that it lists have other milters or none, do not pass the "
            "edge door, and gatepost first hears of them at their first recipient",
            f"where they should pass it, write {_element(facts, front)} before the others in the map",
            facts.remedies.set_option(front.key, "smtpd_milter_maps", ""),
            "note",
        )


def _element(facts: Examination, front: Smtpd) -> str:
    """gatepost's milter as apply writes it here; milter.socket where it would refuse."""
    if not isinstance(facts.planned, str):
        for one in facts.planned.entries:
            if one.service == front.key and (wanted := one.options.get("smtpd_milters")):
                return value.elements(wanted)[0]
    return facts.config.milter.socket
