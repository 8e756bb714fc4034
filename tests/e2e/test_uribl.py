"""uribl behind a real Postfix: the sender of a link that is listed is told while it waits, others get their mail."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id
from tests.rigs.dns_rig import BlockList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

ZONES = {"dbl.example:dnset": ":127.0.1.2:Domain of a spammer\n.spam.example\n"}
HEADER = (
    b"From: a@example.net\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n"
)


def linking(host: bytes) -> bytes:
    html = b'<a href="http://%s/">x</a>' % host
    return HEADER + base64.encodebytes(html).replace(b"\n", b"\r\n") + b".\r\n"


GOOD, SPAM = linking(b"good.example"), linking(b"www.s&#112;am.example")


@pytest.fixture(scope="module")
def lists() -> Iterator[BlockList]:
    with BlockList(ZONES) as running:
        yield running


def use(gate: Gate, lists: BlockList, options: str = "") -> None:
    gate.use(
        f'[dns]\nnameservers = ["{lists.address}"]\n[[plugin]]\nname = "uribl"\nzones = ["dbl.example"]\n{options}'
    )


def test_a_message_that_links_to_what_is_listed_is_refused_at_the_dot(gate: Gate, lists: BlockList) -> None:
    use(gate, lists)
    assert gate.send(SPAM) == (
        b"554 5.7.1 Service unavailable; linked domain [spam.example] blocked using dbl.example; "
        b"Domain of a spammer\r\n"
    )
    assert gate.queue() == []
    queue_id(gate.send(GOOD))
    _, text = gate.take()
    assert text.endswith(GOOD.removesuffix(b".\r\n"))


def test_a_message_that_is_only_marked_is_the_same_but_for_the_mark(gate: Gate, lists: BlockList) -> None:
    use(gate, lists, "tag = true\n")
    queue_id(gate.send(SPAM))
    _, text = gate.take()
    header, _, body = text.partition(b"\r\n\r\n")
    mark = b"\r\nX-URIBL: linked domain [spam.example] blocked using dbl.example; Domain of a\r\n spammer"
    assert header.replace(mark, b"").endswith(HEADER.rstrip())
    assert mark in header
    assert body == SPAM.partition(b"\r\n\r\n")[2].removesuffix(b".\r\n")


def test_a_list_that_has_died_is_an_answer_for_now(gate: Gate) -> None:
    with BlockList(ZONES) as dying:
        use(gate, dying)
        queue_id(gate.send(GOOD))
        gate.queue()
        gate.postfix.empty_queue()
    assert gate.send(linking(b"other.example")).startswith(b"451 4.3.0 ")
