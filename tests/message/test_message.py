"""Messages: what is read follows the edits, what is recorded is what Postfix must do, and a copy is a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rigs.message_rig import ANNA, BERT, MAIL, SENDER, body_after, message, whole

from gatepost import Address, Body, Header, Message
from gatepost.message.edit import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# No edits


def test_an_unedited_message_is_the_same_to_the_byte() -> None:
    mail = message()
    assert whole(mail) == MAIL
    assert mail.size == len(MAIL)
    assert mail.edits == ()
    assert mail.summary() == []
    assert (mail.sender, mail.recipients) == (SENDER, (ANNA, BERT))


LINES = st.lists(
    st.sampled_from(
        [b"A: b", b" c", b"", b"text", b"X:", b"--b", b"\xff\x00", b"Content-Type: multipart/x; boundary=b"]
    )
)


@given(LINES)
def test_looking_at_a_message_changes_nothing(lines: list[bytes]) -> None:
    data = b"".join(line + b"\r\n" for line in lines)
    mail = message(b"X-First: 1\r\n" + data if not data.startswith(b"\r\n") else data)
    before = whole(mail)
    assert mail.structure is not None
    assert mail.mime is not None
    mail.headers.get("Content-Type")
    assert whole(mail) == before
    assert before.replace(b"\r\n", b"").endswith(data.replace(b"\r\n", b""))
    assert mail.edits == ()


# Header


def test_added_fields_stand_at_the_end() -> None:
    mail = message()
    mail.add_header("X-Spam", "yes")
    assert bytes(mail.headers).endswith(b"x-a: second\r\nX-Spam: yes\r\n")
    assert mail.edits == (AddHeader("X-Spam", b" yes"),)


@pytest.mark.parametrize(("position", "milter_position", "place"), [(0, 1, 0), (1, 2, 1), (5, 6, 5), (99, 6, 5)])
def test_an_inserted_field_stands_in_front_of_that_position(position: int, milter_position: int, place: int) -> None:
    mail = message()
    mail.insert_header(position, "X-New", "1")
    assert mail.headers[place] == Header("X-New", b" 1")
    assert mail.edits == (InsertHeader(milter_position, "X-New", b" 1"),)


def test_occurrences_count_what_is_there_now() -> None:
    mail = message()
    mail.insert_header(0, "X-A", "zero")
    assert mail.change_header("x-a", "FIRST", 2)
    assert mail.delete_header("X-A") == 1
    assert mail.delete_header("X-A", 2) == 1
    assert mail.headers.get_all("X-A") == ["FIRST"]
    assert mail.edits[1:] == (ChangeHeader("x-a", 2, b" FIRST"), DeleteHeader("X-A", 1), DeleteHeader("X-A", 2))


def test_all_fields_of_a_name_are_deleted_from_the_last_on() -> None:
    mail = message()
    assert mail.delete_header("RECEIVED", None) == 2
    assert "Received" not in mail.headers
    assert mail.edits == (DeleteHeader("RECEIVED", 2), DeleteHeader("RECEIVED", 1))


@pytest.mark.timeout(20)
def test_a_field_that_a_stranger_repeats_thousands_of_times_is_deleted_at_once() -> None:
    mail = message(b"X-Spam: no\r\n" * 60_000 + b"Subject: a\r\n\r\n")
    assert mail.delete_header("X-Spam", None) == len(mail.edits) == 60_000
    assert bytes(mail.headers) == b"Subject: a\r\n"


@pytest.mark.timeout(20)
def test_some_of_the_fields_of_a_name_are_deleted_at_once() -> None:
    mail = message(b"X-Spam: no\r\nX-Other: x\r\nX-Spam: 2\r\n" * 30_000 + b"\r\n")
    assert mail.delete_header("X-Spam", range(1, 60_001, 2)) == len(mail.edits) == 30_000
    assert set(mail.headers.get_all("X-Spam")) == {"2"}
    assert mail.edits[-1] == DeleteHeader("X-Spam", 1)
    assert mail.delete_header("X-Spam", ()) == mail.delete_header("X-Spam", {70_000}) == 0
    with pytest.raises(ValueError, match="occurrence 0 is below 1"):
        mail.delete_header("X-Spam", [0, 1])


def test_what_is_not_there_is_neither_changed_nor_deleted() -> None:
    mail = message()
    assert mail.change_header("Date", "x") is False
    assert mail.change_header("X-A", "x", 3) is False
    assert mail.delete_header("X-A", 3) == 0
    assert mail.delete_header("Date", None) == 0
    assert mail.edits == ()


@pytest.mark.parametrize(
    "edit",
    [
        lambda mail: mail.add_header("X Y", "a"),
        lambda mail: mail.add_header("X", "a\r\nb"),
        lambda mail: mail.insert_header(-1, "X", "a"),
        lambda mail: mail.change_header("X-A", "a\0"),
        lambda mail: mail.change_header("X-A", "a", 0),
        lambda mail: mail.delete_header("X-A", -1),
        lambda mail: mail.add_recipient(""),
        lambda mail: mail.add_recipient("@example.org"),
        lambda mail: mail.change_sender("a\r\nRCPT TO:<b>@example.org"),
        lambda mail: mail.change_sender(Address("\udcff", "example.org")),
        lambda mail: mail.quarantine(""),
        lambda mail: mail.quarantine("two\nlines"),
    ],
)
def test_a_bad_edit_is_refused_at_once_and_leaves_no_trace(edit: Callable[[Message], object]) -> None:
    mail = message()
    with pytest.raises(ValueError, match=r"\w"):
        edit(mail)
    assert mail.edits == ()
    assert mail.summary() == []
    assert whole(mail) == MAIL


def test_values_for_the_milter_are_text_folded_by_lf() -> None:
    mail = message()
    mail.add_header("X-Folded", "a\r\n\tb ü")
    mail.change_header("Subject", b"\tgr\xc3\xbc\xc3\x9f\r\n x")
    values = [edit.value for edit in mail.edits if isinstance(edit, AddHeader | ChangeHeader)]
    assert values == [" a\tb =?utf-8?b?w7w=?=", "\tgrüß\n x"]


# Body


def test_a_new_body_leaves_the_header_alone() -> None:
    mail = message()
    mail.replace_body([b"new\n", b"body"])
    assert body_after(mail) == b"new\r\nbody\r\n"
    assert bytes(mail.headers) + b"\r\nnew\r\nbody\r\n" == whole(mail)
    assert len(mail.edits) == 1


def test_several_body_edits_are_one_replacement_after_all_else() -> None:
    mail = message()
    mail.append_to_body(b"three\n")
    mail.add_header("X", "1")
    mail.append_to_body(b"four")
    assert body_after(mail) == b"line one\r\nline two\r\nthree\r\nfour\r\n"
    assert [type(edit) for edit in mail.edits] == [AddHeader, ReplaceBody]


def test_appending_begins_on_a_line_of_its_own() -> None:
    mail = Message([], Body(b"no line end"), SENDER, [ANNA])
    mail.append_to_body(b"x")
    assert body_after(mail) == b"no line end\r\nx\r\n"


def test_an_empty_body_can_be_given_and_filled() -> None:
    mail = message()
    mail.replace_body(b"")
    assert body_after(mail) == b""
    mail.append_to_body(b"x")
    assert body_after(mail) == b"x\r\n"


# Envelope


def test_the_sender_is_changed_once_and_back_not_at_all() -> None:
    mail = message()
    mail.change_sender("other@example.org")
    mail.change_sender("")
    assert mail.sender.is_null
    assert mail.edits == (ChangeSender(Address("", "")),)
    mail.change_sender(SENDER)
    assert len(mail.edits) == 0


def test_recipients_are_added_and_deleted() -> None:
    mail = message()
    mail.add_recipient("new@Example.net")
    mail.add_recipient(ANNA)
    assert mail.delete_recipient("bert@EXAMPLE.org") is True
    assert mail.delete_recipient("nobody@example.org") is False
    assert mail.recipients == (ANNA, Address("new", "example.net"))
    assert mail.edits == (AddRecipient(Address("new", "example.net")), DeleteRecipient(BERT))


def test_deleting_and_adding_again_is_nothing() -> None:
    mail = message()
    mail.delete_recipient(ANNA)
    mail.add_recipient(ANNA)
    mail.add_recipient("new@example.org")
    mail.delete_recipient("new@example.org")
    assert mail.edits == ()
    assert len(mail.summary()) == 4


def test_the_last_recipient_cannot_be_deleted() -> None:
    mail = message()
    mail.delete_recipient(ANNA)
    with pytest.raises(ValueError, match="last recipient"):
        mail.delete_recipient(BERT)
    mail.add_recipient("other@example.org")
    mail.delete_recipient(BERT)
    assert mail.recipients == (Address("other", "example.org"),)


def test_quarantine_is_recorded() -> None:
    mail = message()
    mail.quarantine("looks odd")
    assert mail.edits == (Quarantine("looks odd"),)


# Copies and words


def edit_everything(mail: Message) -> None:
    mail.add_header("X-Copy", "1")
    mail.delete_header("Received", None)
    mail.append_to_body(b"more")
    mail.change_sender("x@example.org")
    mail.delete_recipient(ANNA)
    mail.quarantine("x")


def test_edits_on_a_copy_do_not_show_on_the_original_nor_the_reverse() -> None:
    mail = message()
    mail.add_header("X-Both", "1")
    copied = mail.copy()
    edit_everything(copied)
    assert mail.edits == (AddHeader("X-Both", b" 1"),)
    assert whole(mail) == MAIL.replace(b"x-a: second\r\n", b"x-a: second\r\nX-Both: 1\r\n")
    assert mail.recipients == (ANNA, BERT)
    other = mail.copy()
    mail.add_header("X-Original", "1")
    assert "X-Original" not in other.headers
    assert len(copied.edits) == 8
    assert copied.summary()[: len(other.summary())] == other.summary()


def test_a_copy_forgotten_and_edited_late_harms_nothing() -> None:
    mail = message()
    orphan = mail.copy()
    mail.body.close()
    orphan.add_header("X", "1")
    with pytest.raises(ValueError, match="closed"):
        orphan.append_to_body(b"late")


def test_a_copy_shares_what_was_parsed_until_it_is_edited() -> None:
    mail = message()
    structure, parsed = mail.structure, mail.mime
    copied = mail.copy()
    assert copied.structure is structure
    assert copied.mime is parsed
    copied.add_header("X-Late", "1")
    assert copied.mime is not None
    assert copied.mime["X-Late"] == "1"
    assert mail.mime is parsed


def test_the_summary_says_in_words_what_was_done_in_order() -> None:
    mail = message()
    mail.add_header("X-Spam", "yes")
    mail.insert_header(0, "X-Top", "ü")
    mail.append_to_body(b"12345")
    mail.change_header("Subject", "z" * 100)
    mail.delete_header("X-A")
    mail.replace_body(b"")
    mail.change_sender("")
    mail.add_recipient("new@example.org")
    mail.delete_recipient(ANNA)
    mail.quarantine("odd")
    assert mail.summary() == [
        "add header X-Spam: yes",
        "insert header X-Top: ü",
        "append 5 bytes to the body",
        "change header Subject: " + "z" * 79 + "…",
        "delete header X-A",
        "replace the body",
        "change sender to <>",
        "add recipient <new@example.org>",
        "delete recipient <anna@example.org>",
        "quarantine: odd",
    ]


def test_above_the_limit_nothing_is_parsed() -> None:
    assert message(mime_limit=len(MAIL)).mime is not None
    mail = message(mime_limit=len(MAIL) - 1)
    assert mail.mime is None
    assert mail.structure is None
    part = message().structure
    assert part is not None
    with pytest.raises(ValueError, match="too large"):
        mail.replace_part(part, b"")
