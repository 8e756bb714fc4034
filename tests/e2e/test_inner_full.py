"""The real inner smtpd at its process limit, and paused: a 451 of ours within the budget, and mail again afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient, queue_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

OURS = b"451 4.3.0 temporary failure, please try again later\r\n"


@pytest.fixture
def one_process(gate: Gate) -> Iterator[None]:
    """Let the inner service have one process only."""
    gate.postfix.postconf("-F", f"{gate.inner_service}/process_limit=1")
    gate.postfix.reload()
    gate.daemon.reload()
    yield
    gate.postfix.postconf("-F", f"{gate.inner_service}/process_limit=0")
    gate.postfix.reload()


@pytest.mark.usefixtures("one_process")
def test_an_inner_smtpd_at_its_process_limit_is_a_451_that_names_the_limit(gate: Gate) -> None:
    seen = gate.daemon.log_size()
    with SmtpClient(gate.daemon.inner_port, timeout_s=30):
        assert gate.send() == OURS
    gate.daemon.wait_for_log("is its process limit in master.cf reached", since=seen)
    queue_id(gate.send())


def inner_processes(gate: Gate) -> list[int]:
    name = gate.inner_service.removesuffix("/inet").encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"smtpd" and name in words:
            found.append(int(process.name))
    return found


def test_an_inner_smtpd_that_is_paused_is_a_451_and_the_next_mail_passes(gate: Gate) -> None:
    queue_id(gate.send())
    paused = inner_processes(gate)
    assert paused, "no inner smtpd runs"
    send_signal(paused, signal.SIGSTOP)
    try:
        assert gate.send() == OURS
    finally:
        send_signal(paused, signal.SIGCONT)
    queue_id(gate.send())


def send_signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        # Those whose connection was retired may be about to end by themselves.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
