"""Options of a plugin as they are in force: configured, then overridden by session, transaction and recipient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError, model_validator

from gatepost import Address, ConfigError, Overrides, Plugin, PluginOptions, Recipient, Session, Transaction
from gatepost.plugin import Services
from gatepost.quantity import Duration


class Options(PluginOptions):
    limit: int = 1
    delay: Duration = 60.0
    file: Path | None = None

    @model_validator(mode="after")
    def _delay_goes_with_the_limit(self) -> Options:
        if self.limit > 100 and self.delay > 100:
            raise ValueError("a limit over 100 goes with a delay of 100s at most")
        return self


class Example(Plugin[Options]):
    pass


class Lent(Services):
    """What the plugin needs to exist."""

    def __init__(self, base: Path) -> None:
        self.base = base

    store: Any = None
    log: Any = None


def plugin(**options: Any) -> Example:
    return Example("example", Options.model_validate(options), Lent(Path("/etc/gatepost")))


def scopes() -> tuple[Session, Transaction, Recipient]:
    session = Session("s", "192.0.2.1")
    transaction = Transaction("s.1", session, Address.parse("a@example.net"))
    return session, transaction, Recipient(Address.parse("b@example.org"), transaction)


def test_without_overrides_every_scope_has_the_configured_options() -> None:
    example = plugin(limit=5)

    assert {example.options(scope).limit for scope in (None, *scopes())} == {5}


def test_recipient_wins_over_transaction_and_transaction_over_session() -> None:
    example = plugin(limit=1)
    session, transaction, recipient = scopes()
    recipient.override(Overrides({"example": {"limit": 4}}))
    transaction.override(Overrides({"example": {"limit": 3}}))
    session.override(Overrides({"example": {"limit": 2}}))

    assert [example.options(scope).limit for scope in (None, session, transaction, recipient)] == [1, 2, 3, 4]


def test_a_narrower_scope_keeps_what_only_a_wider_one_overrides() -> None:
    example = plugin(limit=1, delay="5s")
    session, transaction, recipient = scopes()
    session.override(Overrides({"example": {"delay": "7s"}}))
    recipient.override(Overrides({"example": {"limit": "9"}}))

    assert (example.options(recipient).limit, example.options(recipient).delay) == (9, 7.0)
    assert (example.options(transaction).limit, example.options(transaction).delay) == (1, 7.0)


def test_of_two_overrides_in_one_scope_the_later_wins() -> None:
    session, _, _ = scopes()
    session.override(Overrides({"example": {"limit": 2, "delay": 2}}))
    session.override(Overrides({"example": {"limit": 3}}))

    assert (plugin().options(session).limit, plugin().options(session).delay) == (3, 2.0)


def test_overrides_of_other_plugins_change_nothing() -> None:
    session, _, _ = scopes()
    session.override(Overrides({"other": {"limit": 2}}))
    example = plugin()

    assert example.options(session) is example.options()


def test_overrides_of_one_recipient_do_not_show_on_another() -> None:
    _, transaction, first = scopes()
    second = Recipient(Address.parse("c@example.org"), transaction)
    first.override(Overrides({"example": {"limit": 2}}))
    example = plugin()

    assert (example.options(first).limit, example.options(second).limit) == (2, 1)


def test_an_empty_override_is_not_kept() -> None:
    session, transaction, recipient = scopes()
    for scope in (session, transaction, recipient):
        scope.override(Overrides({}, "/etc/gatepost/clients:3"))

    assert (session.overrides, transaction.overrides, recipient.overrides) == ((), (), ())


def test_the_same_overrides_give_the_same_object_so_that_runs_can_be_told_apart_cheaply() -> None:
    example = plugin()
    first, second = scopes()[0], scopes()[0]
    for session in (first, second):
        session.override(Overrides({"example": {"limit": 2}}))

    assert example.options(first) is example.options(second)


def test_relative_paths_in_overrides_begin_in_the_configuration_directory() -> None:
    session, _, _ = scopes()
    session.override(Overrides({"example": {"file": "list"}}))

    assert plugin().options(session).file == Path("/etc/gatepost/list")


def test_overrides_that_do_not_go_together_are_told_with_their_sources() -> None:
    session, _, recipient = scopes()
    session.override(Overrides({"example": {"limit": 200}}, "/etc/gatepost/clients:3"))
    recipient.override(Overrides({"example": {"delay": "5m"}}, "/etc/gatepost/aliases:12"))
    example = plugin()

    assert example.options(session).limit == 200
    with pytest.raises(ConfigError) as caught:
        example.options(recipient)
    assert str(caught.value) == (
        "the options of example, as overridden by /etc/gatepost/clients:3 and /etc/gatepost/aliases:12, are not valid: "
        "a limit over 100 goes with a delay of 100s at most"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "on"},
        {"timeout": 0},
        {"timeout": -1},
        {"on_error": "ignore"},
        {"on_timeout": "deny"},
        {"on_unavailable": ""},
        {"log_level": "loud"},
        {"skip_authenticated": "perhaps"},
        {"unknown": 1},
    ],
)
def test_a_bad_value_of_a_universal_key_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PluginOptions.model_validate(fields)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(plugin().options(), "limit", 3)  # noqa: B010 - mypy knows that it is frozen


def test_a_plugin_without_options_of_its_own_has_the_universal_ones() -> None:
    class Plain(Plugin):
        pass

    class Derived(Example):
        pass

    assert (Plain.options_class, Example.options_class, Derived.options_class) == (PluginOptions, Options, Options)


def test_notes_are_kept_under_the_plugins_own_name() -> None:
    session, transaction, recipient = scopes()
    example = plugin()
    for scope in (session, transaction, recipient):
        example.notes(scope)["seen"] = 1
        assert scope.notes == {"example": {"seen": 1}}
        assert example.notes(scope) is example.notes(scope)
