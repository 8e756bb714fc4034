"""The edge, switched on and off again by `gatepost postfix apply --reload` and a restart, while clients are there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE
from tests.e2e.postfix_rig import queue_id

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

TELLS = {
    "tells": """
class Tells(Plugin):
    def connect(self, session):
        self.log.info("saw connect", port=session.port, at=session.daemon_address)
        self.notes(session)["port"] = session.port

    def data_post(self, transaction, message):
        message.add_header("X-Notes", f"{self.notes(transaction.session)['port']}")
"""
}


def apply(gate: Gate) -> None:
    """Run the command as an administrator does, and wait until the reload is in force."""
    where = ("--config", str(gate.daemon.config_file), "--config-dir", str(gate.postfix.config_dir))
    done = gate.daemon.run("postfix", "apply", *where, "--service", gate.postfix.front_service, "--reload")
    assert done.returncode == 0, done.stderr
    gate.postfix.reload()


def restart(gate: Gate, edge: bool) -> None:
    gate.use(hooks=TELLS, milter={"edge": edge}, restart=True)


def arrivals(gate: Gate, seen: int) -> list[tuple[int, bool]]:
    """Each connect hook that ran: the client's port, and whether it was at the edge, which alone knows the address."""
    return [
        (int(port), at != "-")
        for port, at in re.findall(r'event="saw connect".* port=(\d+) at=(\S+)', gate.daemon.log(seen))
    ]


def check_new_client(gate: Gate, edge: bool) -> None:
    """A client hears of the edge, or does not, before it has said anything of a message; and its message passes."""
    seen = gate.daemon.log_size()
    with gate.client() as client:
        port = client.address[1]
        assert arrivals(gate, seen) == ([(port, True)] if edge else [])
        identity = queue_id(client.message(MESSAGE))
        assert arrivals(gate, seen) == [(port, edge)]
    assert f"X-Notes: {port}\n".encode() in gate.postfix.message(identity)


@pytest.mark.parametrize("first", ["apply", "restart"])
def test_the_edge_is_switched_by_apply_and_a_restart_in_either_order(gate: Gate, first: str) -> None:
    restart(gate, edge=False)
    apply(gate)
    for edge in (True, False, True, False):
        with gate.client() as here:
            # Half way, either only Postfix or only the daemon has the edge: as if there were none.
            if first == "apply":
                # What apply goes by is the file; the daemon still runs with what it has read before.
                gate.daemon.configure(more={"milter": {"edge": edge}, "proxy": {"front_timeout": "20s"}})
                apply(gate)
                check_new_client(gate, edge=False)
                restart(gate, edge)
            else:
                restart(gate, edge)
                check_new_client(gate, edge=False)
                apply(gate)
            check_new_client(gate, edge)
            # Who was there keeps the smtpd that it has: served as before, or put off, but never refused for good.
            assert here.command(b"MAIL FROM:<sender@example.com>")[:1] in {b"2", b"4"}
        check_new_client(gate, edge)


def test_a_client_that_was_there_before_apply_is_served_as_it_began(gate: Gate) -> None:
    restart(gate, edge=False)
    apply(gate)
    for edge in (True, False):
        seen = gate.daemon.log_size()
        with gate.client() as here:
            queue_id(here.message(MESSAGE))
            gate.use(hooks=TELLS, milter={"edge": edge})
            apply(gate)
            queue_id(here.message(MESSAGE))
            assert [port for port, _ in arrivals(gate, seen)].count(here.address[1]) == 1
            check_new_client(gate, edge)
