"""Ports for a private Postfix, when several programs look for one at a time."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from gatepost.ops import private_config
from gatepost.ops.private_config import free_loopback_port

if TYPE_CHECKING:
    import pytest

_OTHER = """\
import sys
from gatepost.ops.private_config import free_loopback_port
print(*(free_loopback_port() for _ in range(250)), flush=True)
sys.stdin.read()
"""


def test_no_port_is_given_twice_here_or_in_another_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = [int(port) for port in other.stdout.readline().split()]
        # Several blocks, so that two processes that did not know of each other would meet.
        ours = [free_loopback_port() for _ in range(250)]
        other.communicate()
    assert len(theirs) == 250
    assert len(set(ours) | set(theirs)) == 500


def test_a_port_that_is_listened_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    free, taken = free_loopback_port(), free_loopback_port()
    monkeypatch.setattr(private_config, "_own_ports", [free, taken])
    with socket.create_server(("127.0.0.1", taken)):
        assert free_loopback_port() == free
