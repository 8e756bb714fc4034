"""The milter socket's place: whose it is, what is wrong with its directory."""

from __future__ import annotations

import grp
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gatepost.doors.milter_socket import SocketError, directory_problem, give_to_postfix, prepare_path
from gatepost.endpoint import Endpoint

if TYPE_CHECKING:
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@needs_root
def test_as_root_a_socket_in_any_directory_becomes_postfixs(tmp_path: Path) -> None:
    with listening(tmp_path / "sock"):
        give_to_postfix(tmp_path / "sock")
        assert grp.getgrgid((tmp_path / "sock").stat().st_gid).gr_name == "postfix"


@needs_root
def test_a_missing_directory_is_made_setgid_for_postfix(tmp_path: Path) -> None:
    prepare_path(tmp_path / "gatepost" / "sock")
    assert directory_problem(Endpoint(path=f"{tmp_path}/gatepost/sock")) is None
    assert grp.getgrgid((tmp_path / "gatepost").stat().st_gid).gr_name == "postfix"


def test_a_directory_that_is_missing_or_not_setgid_is_named_with_the_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    for path, problem in ((f"{tmp_path}/no/sock", "cannot be used"), (f"{tmp_path}/sock", "is not setgid")):
        found = directory_problem(Endpoint(path=path))
        assert found is not None
        assert problem in found
        assert "install -d -o gatepost -g postfix -m 2750" in found


def test_a_stale_socket_goes_and_one_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with listening(path), pytest.raises(SocketError, match="another gatepost runs"):
        prepare_path(path)
    assert path.exists()
    prepare_path(path)
    assert not path.exists()


def test_a_file_in_the_sockets_place_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("mine")
    with pytest.raises(SocketError, match="is no socket"):
        prepare_path(path)
    assert path.read_text() == "mine"
