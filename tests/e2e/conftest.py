"""Private Postfix instances for the end-to-end tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.e2e.gate import Gate
from tests.e2e.sasl_rig import Accounts
from tests.e2e.tls_rig import Authority

from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from pluggy import Result


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Result[pytest.TestReport], None]:
    """Show what the daemon logged during a test that failed."""
    outcome = yield
    report = outcome.get_result()
    gate = getattr(item, "funcargs", {}).get("gate")
    if report.failed and report.when == "call" and isinstance(gate, Gate):
        report.sections.append(("gatepost's log", gate.daemon.log()[-4000:]))


class StartPostfix(Protocol):
    """Starts another private Postfix, which lives as long as the module's tests."""

    def __call__(self, *, main: Mapping[str, str] | None = None, services: Sequence[str] = ()) -> PrivatePostfix:
        """`main` and `services` as PrivatePostfix takes them."""


@pytest.fixture(scope="module")
def postfix_directory() -> Iterator[Path]:
    """A directory that user postfix can enter (pytest's own cannot be), with a path short enough for UNIX sockets."""
    directory = Path(tempfile.mkdtemp(prefix="gatepost-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def start_postfix(postfix_directory: Path) -> Iterator[StartPostfix]:
    """Start private Postfixes; all are stopped after the module."""
    if os.geteuid() != 0 or shutil.which("postfix", path="/usr/sbin:/usr/local/sbin") is None:
        pytest.skip("needs Postfix and root")
    with contextlib.ExitStack() as running:

        def start(*, main: Mapping[str, str] | None = None, services: Sequence[str] = ()) -> PrivatePostfix:
            directory = Path(tempfile.mkdtemp(prefix="pf-", dir=postfix_directory))
            return running.enter_context(PrivatePostfix(directory, main=main, services=services))

        yield start


@pytest.fixture(scope="module")
def authority(postfix_directory: Path) -> Authority:
    """A certificate authority; `authority.settings` in main.cf make a Postfix offer STARTTLS."""
    return Authority(postfix_directory / "tls")


@pytest.fixture(scope="module")
def accounts(postfix_directory: Path) -> Accounts:
    """Users, none to begin with, who log in at a Postfix given to `accounts.enable`."""
    return Accounts(postfix_directory / "sasl")


# Recipients that the inner smtpd refuses by itself, after the public smtpd has let them through.
_REFUSED_BY_THE_INNER = "inline:{{gone@example.net=550 5.1.1 gone}, {busy@example.net=450 4.2.0 busy}}"


@pytest.fixture(scope="module")
def loop() -> str:
    """The event loop of the module's daemon: asyncio or uvloop; a module that wants both overrides this."""
    return "uvloop"


@pytest.fixture(scope="module")
def module_gate(start_postfix: StartPostfix, postfix_directory: Path, loop: str) -> Iterator[Gate]:
    """A Postfix with gatepost, one for the module; tests take `gate`."""
    main = {
        "message_size_limit": "50000000",
        "mailbox_size_limit": "0",
        "smtpd_restriction_classes": "refused_by_the_inner",
        "refused_by_the_inner": f"check_recipient_access {_REFUSED_BY_THE_INNER}",
    }
    plain_port = free_loopback_port()
    postfix = start_postfix(main=main, services=[f"127.0.0.1:{plain_port} inet n - n - 10 smtpd"])
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = PrivateDaemon(directory, environment={"GATEPOST_LOOP": loop})
    daemon.configure(more={"proxy": {"front_timeout": "20s"}})
    daemon.apply(postfix.config_dir, postfix.front_service)
    gate = Gate(postfix, daemon, plain_port)
    restrictions = "refused_by_the_inner,permit_mynetworks,reject"
    postfix.postconf_service(gate.inner_service, {"smtpd_recipient_restrictions": restrictions})
    postfix.reload()
    with daemon:
        yield gate
    assert "bug in" not in daemon.log(), daemon.log()


@pytest.fixture
def gate(module_gate: Gate) -> Iterator[Gate]:
    """The module's Postfix and gatepost, without plugins until the test says which, and with an empty queue."""
    gate = module_gate
    if gate.queue():
        gate.postfix.empty_queue()
    gate.use()
    seen = gate.daemon.log_size()
    yield gate
    log = gate.daemon.log(seen)
    assert "bug in" not in log, log
