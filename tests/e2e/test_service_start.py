"""What comes while the daemon starts is not lost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from textwrap import dedent

import pytest
from tests.e2e.gate import PREAMBLE

from gatepost.ops.private_daemon import PrivateDaemon

TOLD_EARLY = """
import os
import signal
from pathlib import Path


class Early(Plugin):
    async def init(self):
        config = Path(__file__).parents[1] / "gatepost.toml"
        config.write_text(config.read_text().replace('name = "early"', 'name = "loop"'))
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.02)
"""


@pytest.fixture
def early(postfix_directory: Path) -> PrivateDaemon:
    """A daemon without a Postfix; while it starts, its configuration changes and it is told to reload."""
    daemon = PrivateDaemon(Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory)))
    daemon.configure('[[plugin]]\nname = "early"\n')
    (daemon.hooks_dir / "early.py").write_text(PREAMBLE + dedent(TOLD_EARLY))
    return daemon


def test_a_reload_while_it_starts_is_done_once_it_serves(early: PrivateDaemon) -> None:
    early.start()
    try:
        early.wait_for_log("event=reloaded plugins=loop")
        early.reload()
        # However often it was told: once, and once more for the reload above.
        lines = [line.partition(" event=")[2] for line in early.log().splitlines()]
        assert [line for line in lines if line.startswith("reloaded")] == ["reloaded plugins=loop"] * 2
    finally:
        early.stop()
