"""As a user of its own, with no right but that: Postfix reaches the milter socket by the group of its directory."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import Gate
from tests.e2e.postfix_rig import queue_id

from gatepost.ops.private_daemon import COMMAND, PrivateDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix

USER = 64201
"""Nobody's number; the sandbox knows no name of it either."""

# What User=, CapabilityBoundingSet=, NoNewPrivileges= and UMask= of the unit do. It may read all files, which it must
# where the interpreter is below /root, and may write and connect where any other user may.
UNPRIVILEGED = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"),
    *("sh", "-c", 'umask 0077; exec "$@"', "sh"),
)

MARKS = """
class Marks(Plugin):
    def init(self):
        self.log.info("running", uid=os.geteuid(), groups=os.getgroups())

    async def data_post(self, transaction, message):
        await self.store.put("marks:seen", 1, None)
        message.add_header("X-Mark", "yes")
"""


@pytest.fixture(scope="module")
def module_gate(start_postfix: StartPostfix, postfix_directory: Path) -> Iterator[Gate]:
    """A Postfix, and a daemon in directories as the unit and tmpfiles make them; each test starts it."""
    postfix = start_postfix()
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    daemon = PrivateDaemon(directory, command=[*UNPRIVILEGED, *COMMAND])
    root_daemon = PrivateDaemon(directory)
    root_daemon.proxy_port, root_daemon.inner_port = daemon.proxy_port, daemon.inner_port
    directory.chmod(0o755)
    store = directory / "state"
    store.mkdir(mode=0o750)
    os.chown(store, USER, USER)
    daemon.configure(more={"store": {"url": f"sqlite:{store}/gatepost.db"}})
    root_daemon.apply(postfix.config_dir, postfix.front_service)
    postfix.reload()
    yield Gate(postfix, daemon, postfix.front_port)
    daemon.stop()


@pytest.fixture
def sockets(module_gate: Gate) -> Path:
    """The milter socket's directory as designed: `2750 gatepost postfix`."""
    sockets = module_gate.daemon.directory / "run"
    shutil.chown(sockets, USER, "postfix")
    sockets.chmod(0o2750)
    return sockets


@pytest.fixture
def gate(module_gate: Gate) -> Iterator[Gate]:
    yield module_gate
    module_gate.daemon.stop()
    if module_gate.postfix.queue():
        module_gate.postfix.empty_queue()


def use(gate: Gate) -> None:
    store = gate.daemon.directory / "state" / "gatepost.db"
    gate.use(hooks={"marks": "import os\n" + MARKS}, restart=True, store={"url": f"sqlite:{store}"})


def test_postfix_connects_to_the_socket_of_an_unprivileged_daemon(gate: Gate, sockets: Path) -> None:
    seen = gate.daemon.log_size()
    use(gate)
    assert f"uid={USER} groups=[]" in gate.daemon.log(seen)

    made = (sockets / "milter.sock").stat()
    assert stat.S_ISSOCK(made.st_mode)
    assert f"{stat.S_IMODE(made.st_mode):o}" == "660"
    assert (made.st_uid, grp.getgrgid(made.st_gid).gr_name) == (USER, "postfix")

    identity = queue_id(gate.send())
    assert b"\nX-Mark: yes\n" in gate.postfix.message(identity)


def test_the_store_is_for_its_user_alone(gate: Gate, sockets: Path) -> None:
    use(gate)
    queue_id(gate.send())
    store = gate.daemon.directory / "state" / "gatepost.db"
    assert f"{stat.S_IMODE(store.stat().st_mode):o}" == "600"
    assert store.stat().st_uid == USER


def test_in_a_directory_that_is_not_setgid_the_mail_waits(gate: Gate, sockets: Path) -> None:
    """Fails closed: Postfix may not connect, and no message passes unseen."""
    sockets.chmod(0o755)
    use(gate)
    assert gate.send().startswith(b"4")
    assert gate.postfix.queue() == []


def test_a_socket_directory_of_someone_else_is_75_with_the_remedy(gate: Gate, sockets: Path) -> None:
    shutil.chown(sockets, "root", "postfix")
    gate.daemon.stop()
    ended = gate.daemon.run("run", "--config", str(gate.daemon.config_file))
    assert ended.returncode == 75
    said = ended.stderr.splitlines()[-1]
    assert said.startswith(f"gatepost: cannot listen at unix:{sockets}/milter.sock: user id {USER} may make no socket")
    assert said.endswith(f"run install -d -o {USER} -g postfix -m 2750 {sockets}")


def test_the_stale_socket_of_a_crash_is_removed(gate: Gate, sockets: Path) -> None:
    use(gate)
    gate.daemon.kill()
    assert (sockets / "milter.sock").exists()
    use(gate)
    queue_id(gate.send())
