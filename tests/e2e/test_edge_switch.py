"""The edge in Postfix's configuration, switched by `gatepost postfix apply --reload` while a private Postfix runs.

A probe milter stands at milter.socket and gatepost does not run, but in the last test.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import NextHop, ProbeMilter, SmtpClient

from gatepost.ops.postfix import commands
from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix

    from gatepost.ops.private_postfix import PrivatePostfix


class Host:
    """A Postfix with a milter of its own in main.cf, kept on the front, and gatepost's configuration beside it."""

    def __init__(self, postfix: PrivatePostfix, directory: Path, milter_port: int, own_port: int) -> None:
        self.postfix = postfix
        self.milter_port = milter_port
        self.own_port = own_port
        self.proxy_port, self.inner_port = free_loopback_port(), free_loopback_port()
        self._toml = directory / "gatepost.toml"

    def edge(self, on: bool) -> None:
        """Switch it, as an administrator does."""
        proxy = f'[proxy]\nlisten = "127.0.0.1:{self.proxy_port}"\ninner = "127.0.0.1:{self.inner_port}"\n'
        self._toml.write_text(
            f'{proxy}[milter]\nedge = {str(on).lower()}\nsocket = "inet:127.0.0.1:{self.milter_port}"\n'
        )
        service = ("--service", self.postfix.front_service, "--milters", "keep-front", "--reload")
        line = ["apply", "--config-dir", str(self.postfix.config_dir), "--config", str(self._toml), *service]
        assert commands.app(line, exit_on_error=False, result_action="return_value") == 0
        # postfix(1) does not wait until a reload is in force; this does.
        self.postfix.reload()

    def client(self) -> SmtpClient:
        return SmtpClient(self.postfix.front_port)


@pytest.fixture(scope="module")
def host(start_postfix: StartPostfix, postfix_directory: Path) -> Host:
    milter, own = free_loopback_port(), free_loopback_port()
    settings = {"smtpd_milters": f"{{ inet:127.0.0.1:{own}, connect_timeout=3s }}", "milter_default_action": "accept"}
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    return Host(start_postfix(main=settings), directory, milter, own)


@pytest.fixture
def hop(host: Host) -> Iterator[NextHop]:
    with NextHop(host.proxy_port) as hop:
        yield hop


def session(host: Host) -> tuple[int, list[bytes]]:
    """One client, with its port and the replies to its two recipients, the second unknown to Postfix."""
    with host.client() as client:
        port = client.address[1]
        replies = client.transaction(b"rcpt@example.org", b"a@elsewhere.example")
        client.command(b"QUIT")
        return port, replies


def test_the_front_gets_the_edge_and_loses_it_again_while_clients_come(host: Host, hop: NextHop) -> None:
    with ProbeMilter(host.milter_port) as ours, ProbeMilter(host.own_port) as own:
        for on in (False, True, False, True):
            host.edge(on)
            port, (accepted, refused) = session(host)
            assert accepted.startswith(b"250 ")
            assert refused.startswith(b"554 5.7.1")
            theirs = [event.name for event in own.events(port, "close")]
            assert theirs == ["connect", "helo", "mail", "rcpt", "rcpt", "abort", "close"]
            if not on:
                assert not ours.knows(port)
            else:
                events = ours.events(port, "close")
                assert [event.name for event in events] == theirs
                assert events[4].macros["{rcpt_mailer}"] == "error"
    assert all(conversation.xforward["PORT"] for conversation in hop.conversations())


def test_with_gatepost_gone_the_edge_defers_and_another_milter_keeps_its_own_word(host: Host, hop: NextHop) -> None:
    host.edge(False)
    _, (accepted, _) = session(host)
    assert accepted.startswith(b"250 "), "the other one is gone too, and main.cf says accept"
    host.edge(True)
    with host.client() as client:
        assert client.command(b"MAIL FROM:<sender@example.com>").startswith(b"451 4.7.1 ")
    with ProbeMilter(host.milter_port):
        _, (accepted, _) = session(host)
        assert accepted.startswith(b"250 ")


def test_the_doctor_finds_nothing_with_the_edge_on_and_its_rest_once_it_is_off(
    start_postfix: StartPostfix, postfix_directory: Path
) -> None:
    postfix = start_postfix()
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = PrivateDaemon(directory)

    def doctor() -> list[tuple[str, str]]:
        where = ("--config", str(daemon.config_file), "--config-dir", str(postfix.config_dir))
        said = daemon.run("postfix", "doctor", *where, "--json").stdout
        return [(one["service"], one["parameter"]) for one in json.loads(said)]

    daemon.configure(more={"milter": {"edge": True}})
    daemon.apply(postfix.config_dir, postfix.front_service)
    postfix.reload()
    with daemon:
        assert doctor() == []
        with SmtpClient(postfix.front_port) as client:
            assert client.message().startswith(b"250 ")
        daemon.configure(more={"milter": {"edge": False}})
        assert doctor() == [(postfix.front_service, "smtpd_milters"), ("gatepost", "milter.edge")]
        daemon.reload()
        assert doctor() == [(postfix.front_service, "smtpd_milters")]
        daemon.configure(more={"milter": {"edge": True}})
        assert doctor() == [("gatepost", "milter.edge")]
    daemon.configure(more={"milter": {"edge": False}})
    with daemon:
        assert doctor() == [(postfix.front_service, "smtpd_milters")]
        daemon.apply(postfix.config_dir, postfix.front_service)
        postfix.reload()
        assert doctor() == []
        with SmtpClient(postfix.front_port) as client:
            assert client.message().startswith(b"250 ")
