"""Everything over UNIX sockets: the front reaches the proxy, and the inner smtpd the milter, without a port."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import Gate
from tests.e2e.postfix_rig import queue_id

from gatepost.ops.private_daemon import PrivateDaemon

if TYPE_CHECKING:
    from tests.e2e.conftest import StartPostfix


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_proxy_listens_at_a_unix_socket(start_postfix: StartPostfix, postfix_directory: Path, loop: str) -> None:
    postfix = start_postfix()
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = PrivateDaemon(directory, environment={"GATEPOST_LOOP": loop})
    daemon.configure(more={"proxy": {"listen": f"unix:{directory}/run/proxy.sock"}})
    daemon.apply(postfix.config_dir, postfix.front_service)
    postfix.reload()
    with daemon:
        gate = Gate(postfix, daemon, postfix.front_port)
        with gate.client() as client:
            identities = {queue_id(client.message()) for _ in range(3)}
        assert {entry.queue_id for entry in postfix.queue()} == identities
    assert not (directory / "run" / "proxy.sock").exists()
    assert "event=stopped accepted=3 offered=3" in daemon.log()
