"""Session, transaction and recipient: what plugins read of a client, and what they may change."""

from __future__ import annotations

import ipaddress

import pytest

from gatepost import Address, Overrides, Recipient, Session, Transaction


def transaction() -> Transaction:
    return Transaction("s.1", Session("s", "192.0.2.1"), Address.parse("a@example.net"))


def recipient(text: str = "b@example.org", *, accepted: bool = False) -> Recipient:
    return Recipient(Address.parse(text), transaction(), accepted=accepted)


@pytest.mark.parametrize(
    ("address", "ip"),
    [
        ("192.0.2.1", ipaddress.IPv4Address("192.0.2.1")),
        ("2001:db8::1", ipaddress.IPv6Address("2001:db8::1")),
        ("::ffff:192.0.2.1", ipaddress.IPv4Address("192.0.2.1")),
        ("unknown", None),
        ("", None),
        ("[192.0.2.1]", None),
    ],
)
def test_the_clients_address_as_a_number(
    address: str, ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None
) -> None:
    assert Session("s", address).ip == ip


def test_accepted_are_the_recipients_that_were_answered_250_in_order() -> None:
    one = transaction()
    one.recipients = [recipient("b", accepted=True), recipient("c"), recipient("d", accepted=True)]

    assert [str(accepted.address) for accepted in one.accepted] == ["b", "d"]


@pytest.mark.parametrize("login", [None, "alice"])
def test_a_transaction_is_authenticated_if_its_client_has_logged_in(login: str | None) -> None:
    one = Transaction("s.1", Session("s", "192.0.2.1", login=login), Address.parse(""))

    assert one.authenticated == (login is not None)


def test_duplicate_targets_are_dropped_and_the_first_stays() -> None:
    one = recipient()
    one.deliver_to(Address.parse(text) for text in ("x@example.org", "y@example.org", "x@EXAMPLE.org"))

    assert [str(target) for target in one.targets] == ["x@example.org", "y@example.org"]


@pytest.mark.parametrize(
    "target",
    [Address(""), Address("a\r\nRCPT TO:<evil@example.com>", "example.org"), Address("a", "x\n"), Address("a\0", "x")],
)
def test_a_target_that_would_be_a_command_of_its_own_is_refused_and_changes_nothing(target: Address) -> None:
    one = recipient()
    one.deliver_to([Address.parse("x@example.org")])
    with pytest.raises(ValueError, match="cannot be a recipient"):
        one.deliver_to([Address.parse("y@example.org"), target])

    assert [str(kept) for kept in one.targets] == ["x@example.org"]


def test_a_target_may_be_any_mailbox_that_a_client_could_name() -> None:
    one = recipient()
    targets = [Address("a b", "example.org"), Address("\udcff", "example.org"), Address("postmaster")]
    one.deliver_to(targets)

    assert list(one.targets) == targets


def test_a_run_has_its_own_copy_of_the_notes_and_of_nothing_else_that_must_be_common() -> None:
    whole = transaction()
    whole.notes["plugin"] = {"list": [1]}
    members = [recipient("b", accepted=True)]
    members[0].override(Overrides({"plugin": {"mode": "off"}}))
    run = whole.branch(members)

    run.notes["plugin"]["list"].append(2)
    run.override(Overrides({"plugin": {"mode": "observe"}}))

    assert whole.notes == {"plugin": {"list": [1]}}
    assert (len(whole.overrides), len(run.overrides)) == (0, 2)
    assert (whole.recipients, run.recipients) == ([], members)
    assert run.records is whole.records
    assert (run.id, run.session, run.sender) == (whole.id, whole.session, whole.sender)


def test_a_run_adds_its_recipients_overrides_behind_those_of_the_transaction() -> None:
    whole, member = transaction(), recipient("b")
    first, second = Overrides({"a": {"mode": "off"}}), Overrides({"b": {"mode": "off"}})
    whole.override(first)
    member.override(second)

    assert whole.branch([member]).overrides == (first, second)
    assert whole.overrides == (first,)


@pytest.mark.parametrize(
    ("whitelisted", "reason"),
    [(["b"], "b"), (["b", "c"], "b"), (["c"], None), ([], None)],
)
def test_a_run_is_whitelisted_if_all_its_recipients_are(whitelisted: list[str], reason: str | None) -> None:
    whole = transaction()
    members = [recipient("b"), recipient("c")] if whitelisted != ["b"] else [recipient("b")]
    for member in members:
        if str(member.address) in whitelisted:
            member.whitelist(str(member.address))

    run = whole.branch(members)

    assert (run.whitelist_reason, run.whitelisted) == (reason, reason is not None)
    assert not whole.whitelisted


def test_of_recipients_who_agree_one_that_is_not_whitelisted_lends_its_options() -> None:
    members = [recipient("b"), recipient("c")]
    members[0].whitelist("listed")
    off = Overrides({"a": {"mode": "off"}})
    members[1].override(off)

    assert transaction().branch(members).overrides == (off,)


def test_whitelisted_is_what_the_client_or_the_message_or_the_recipient_is() -> None:
    message = transaction()
    one, other = (Recipient(Address.parse(text), message) for text in ("b", "c"))

    def whitelisted() -> list[bool]:
        return [scope.whitelisted for scope in (message.session, message, one, other)]

    assert whitelisted() == [False, False, False, False]
    one.whitelist("listed")
    assert whitelisted() == [False, False, True, False]
    message.whitelist("listed")
    assert whitelisted() == [False, True, True, True]
    assert not Transaction("s.2", message.session, message.sender).whitelisted
    message.session.whitelist("listed")
    assert Transaction("s.2", message.session, message.sender).whitelisted


@pytest.mark.parametrize("scope", [Session("s", "192.0.2.1"), transaction(), recipient()])
def test_the_first_reason_to_whitelist_stays(scope: Session | Transaction | Recipient) -> None:
    scope.whitelist("first")
    scope.whitelist("second")

    assert scope.whitelist_reason == "first"
