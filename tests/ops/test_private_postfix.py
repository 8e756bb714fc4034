from __future__ import annotations

import os
import smtplib
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError
from gatepost.ops import private_config
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def _root_with_postfix() -> None:
    try:
        private_config.command("postfix")
    except ConfigError:
        pytest.skip("needs Postfix")
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gatepost-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def postfix(directory: Path) -> Iterator[PrivatePostfix]:
    with PrivatePostfix(directory / "one", main={"smtpd_banner": "$myhostname ESMTP first"}) as postfix:
        yield postfix


def _working_in(directory: Path) -> list[str]:
    """Name the processes that work in a directory, by another way than the code under test."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory:
                found.append((process / "comm").read_text())
        except OSError:
            continue
    return found


def _banner(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        return client.recv(200)


def test_mail_stays_in_the_queue_byte_for_byte(postfix: PrivatePostfix) -> None:
    body = b"X-Fold: a\r\n\tb \r\nX-8bit: \xff\r\n\r\n\r\n" + b"long" * 2000 + b"\r\nnul \0 and no more\r\n"
    with smtplib.SMTP("127.0.0.1", postfix.front_port, timeout=60) as client:
        client.sendmail("a@example.com", ["b@example.org", "c@example.net"], body)
    (entry,) = postfix.wait_for_queue(1)
    assert (entry.sender, sorted(entry.recipients)) == ("a@example.com", ["b@example.org", "c@example.net"])
    assert postfix.message(entry.queue_id).endswith(b"\n" + body.replace(b"\r\n", b"\n"))
    assert "a@example.com" in postfix.envelope(entry.queue_id)
    postfix.empty_queue()
    assert postfix.queue() == []


def test_a_stranger_cannot_relay(postfix: PrivatePostfix) -> None:
    with smtplib.SMTP("127.0.0.1", postfix.front_port, timeout=60) as client, pytest.raises(smtplib.SMTPException):
        client.sendmail("a@example.com", ["b@elsewhere.test"], b"\r\n")


def test_an_unknown_queue_id_is_a_key_error(postfix: PrivatePostfix) -> None:
    with pytest.raises(KeyError):
        postfix.message("0123456789")


def test_a_reload_brings_new_settings_and_new_services(postfix: PrivatePostfix) -> None:
    assert _banner(postfix.front_port) == b"220 mx.gatepost.test ESMTP first\r\n"
    port = free_loopback_port()
    postfix.add_service(f"127.0.0.1:{port} inet n - n - - smtpd\n -o smtpd_banner=third")
    postfix.postconf_service(postfix.front_service, {"smtpd_banner": "second"})
    postfix.reload()
    assert [_banner(postfix.front_port), _banner(port)] == [b"220 second\r\n", b"220 third\r\n"]


def test_stop_leaves_no_process_and_may_be_called_twice_and_start_begins_anew(directory: Path) -> None:
    postfix = PrivatePostfix(directory / "two")
    for _ in range(2):
        postfix.start()
        _banner(postfix.front_port)
        assert "master\n" in _working_in(postfix.queue_dir)
        postfix.stop()
        assert _working_in(postfix.queue_dir) == []
        with pytest.raises(ConnectionRefusedError):
            _banner(postfix.front_port)
    postfix.stop()


def test_it_stops_even_when_the_block_fails(directory: Path) -> None:
    with pytest.raises(ZeroDivisionError), PrivatePostfix(directory / "three") as postfix:
        raise ZeroDivisionError
    assert _working_in(postfix.queue_dir) == []


def test_a_stale_pid_file_ends_no_stranger(directory: Path) -> None:
    postfix = PrivatePostfix(directory / "four")
    (postfix.queue_dir / "pid").mkdir()
    (postfix.queue_dir / "pid" / "master.pid").write_text(f"{os.getpid()}\n")
    postfix.stop()


def test_a_taken_port_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        postfix = PrivatePostfix(directory / "five", services=[f"127.0.0.1:{port} inet n - n - - smtpd"])
        with pytest.raises(ConfigError, match=rf"does not start: 127\.0\.0\.1:{port}: Address already in use"):
            postfix.start()
    assert _working_in(postfix.queue_dir) == []


def test_a_directory_that_postfix_cannot_enter_is_named(directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=r"user postfix cannot enter .*/closed: chmod o\+x"):
        PrivatePostfix(closed / "postfix")


def test_a_missing_postfix_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_config, "_SEARCH_PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="postfix is not installed: install Postfix"):
        PrivatePostfix(Path("/nonexistent"))


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="only be started by root"):
        PrivatePostfix(Path("/nonexistent"))
