"""The doctor on sockets, numbers and refusals: what it finds on disk and in the columns of master.cf."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.ops.doctor_rig import Site

    from gatepost.ops.postfix.doctor.finding import Finding

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a private Postfix is for root")

GATEPOST = "gatepost"


def mended(site: Site, service: str, parameter: str, problem: str, severity: str = "finding") -> Finding:
    """See the one thing there is to say, run its command, and see that it is gone."""
    (found,) = site.on_paper()
    assert (found.service, found.parameter, found.severity) == (service, parameter, severity), found
    assert problem in found.problem
    site.run(found.command)
    assert site.on_paper() == []
    return found


@contextmanager
def listening(path: Path, mode: int = 0o660) -> Iterator[None]:
    """A socket as gatepost makes it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(mode)
        yield


def chroot(site: Site) -> Path:
    """Chroot both services; return a directory that they cannot see."""
    site.postconf("-F", f"{site.front}/chroot=y", f"{site.inner}/chroot=y")
    outside = site.directory / "outside"
    outside.mkdir(exist_ok=True)
    return outside


def test_a_milter_socket_outside_the_chroot(site: Site) -> None:
    outside = chroot(site)
    site.toml.write_text(site.toml.read_text().replace(str(site.socket.parent), str(outside)))
    site.option(site.inner, f"smtpd_milters=unix:{outside}/milter.sock")
    found = mended(site, site.inner, "milter.socket", f"outside {site.queue}, which a chrooted smtpd cannot leave")
    assert "restart gatepost" in found.remedy


def test_what_mends_a_socket_outside_the_chroot_comes_first(site: Site) -> None:
    outside = chroot(site)
    site.toml.write_text(site.toml.read_text().replace(str(site.socket.parent), str(outside)))
    first, *others = [one for one in site.on_paper() if one.severity == "finding"]
    assert (first.parameter, [one.parameter for one in others]) == ("milter.socket", ["smtpd_milters"])
    for one in (first, *others):
        site.run(one.command)
    assert site.findings() == []


def test_a_proxy_socket_outside_the_chroot(site: Site) -> None:
    outside = chroot(site) / "proxy.sock"
    site.toml.write_text(site.toml.read_text().replace(site.listen, f"unix:{outside}"))
    site.option(site.front, f"smtpd_proxy_filter=unix:{outside}")
    mended(site, site.front, "proxy.listen", "which a chrooted smtpd cannot leave")


@pytest.mark.parametrize(
    ("mode", "owner", "problem"),
    [
        (0o750, "root:postfix", "is not setgid with group postfix"),
        (0o2750, "root:root", "is not setgid with group postfix"),
        (0o2640, "root:postfix", "cannot be entered by user postfix"),
        (0o2777, "root:postfix", "may be written by everybody"),
    ],
)
def test_a_directory_of_the_socket_that_does_not_fit(site: Site, mode: int, owner: str, problem: str) -> None:
    shutil.chown(site.socket.parent, *owner.split(":"))
    site.socket.parent.chmod(mode)
    mended(site, GATEPOST, "milter.socket", problem)


def test_a_missing_directory_of_the_socket(site: Site) -> None:
    site.socket.parent.rmdir()
    mended(site, GATEPOST, "milter.socket", "cannot be used: No such file or directory")


def test_a_directory_on_the_way_that_smtpd_cannot_enter(site: Site) -> None:
    closed = site.queue / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    shutil.rmtree(closed / "gatepost", ignore_errors=True)
    shutil.copytree(site.socket.parent, closed / "gatepost")
    shutil.chown(closed / "gatepost", "root", "postfix")
    (closed / "gatepost").chmod(0o2750)
    site.toml.write_text(site.toml.read_text().replace(str(site.socket.parent), str(closed / "gatepost")))
    site.apply()
    mended(site, GATEPOST, "milter.socket", f"user postfix, as whom smtpd runs, cannot enter {closed}")


def test_what_lies_above_the_queue_directory_is_no_matter_to_smtpd(site: Site) -> None:
    site.directory.chmod(0o700)
    try:
        assert site.on_paper() == []
    finally:
        site.directory.chmod(0o755)


@pytest.mark.parametrize(
    ("mode", "group", "problem"),
    [
        (0o660, "root", "cannot be used by user postfix"),
        (0o640, "postfix", "cannot be used by user postfix"),
        (0o666, "postfix", "may be used by everybody"),
    ],
)
def test_a_socket_with_the_wrong_owner_or_mode(site: Site, mode: int, group: str, problem: str) -> None:
    with listening(site.socket, mode):
        shutil.chown(site.socket, group=group)
        mended(site, GATEPOST, "milter.socket", problem)


def test_a_socket_as_gatepost_makes_it_is_no_finding(site: Site) -> None:
    with listening(site.socket):
        assert site.on_paper() == []


def test_a_file_in_the_place_of_the_socket(site: Site) -> None:
    site.socket.touch()
    shutil.chown(site.socket, group="postfix")
    (found,) = site.on_paper()
    assert found.problem == f"{site.socket} is there and is no socket"


def test_a_front_without_a_process_limit(site: Site) -> None:
    site.postconf("-F", f"{site.front}/process_limit=0")
    mended(site, site.front, "process_limit", "maxproc is 0, no limit: as many clients as come")


@pytest.mark.parametrize("setting", ["", "max_sessions = 99", "max_sessions=1_0 # few"])
def test_fewer_sessions_than_the_front_has_processes(site: Site, setting: str) -> None:
    site.configure(proxy=setting)
    if not setting:
        site.postconf("-F", f"{site.front}/process_limit=-")
        site.main("default_process_limit = 501")
    found = mended(site, GATEPOST, "proxy.max_sessions", "is below what the fronts may bring")
    assert ("501" if not setting else "100") in found.command
    assert "# few" in site.toml.read_text() or "#" not in setting


def test_an_inner_service_with_fewer_processes_than_gatepost_may_need(site: Site) -> None:
    site.postconf("-F", f"{site.inner}/process_limit=-")
    site.main("default_process_limit = 50")
    mended(site, site.inner, "process_limit", "maxproc is -, which is default_process_limit = 50")


@pytest.mark.parametrize("limit", ["20000000", "0"])
def test_messages_of_which_plugins_do_not_see_the_parts_are_a_note(site: Site, limit: str) -> None:
    site.main(f"message_size_limit = {limit}")
    assert site.on_paper() == []
    site.configure('[[plugin]]\nname = "attachments"\n')
    mended(site, site.front, "message_size_limit", "no plugin sees the MIME parts", "note")


def test_the_size_of_messages_is_set_where_the_front_has_it_from(site: Site) -> None:
    site.configure('[[plugin]]\nname = "attachments"\n')
    site.postconf("-P", f"{site.front}/message_size_limit=0")
    site.run(site.examine().remedies.apply())
    (note,) = site.on_paper()
    site.run(note.command)
    assert (site.front, "message_size_limit") not in {(one.service, one.parameter) for one in site.on_paper()}


def test_a_front_timeout_below_postfix_own_is_a_note(site: Site) -> None:
    site.configure(proxy='front_timeout = "60s"')
    mended(site, GATEPOST, "proxy.front_timeout", "is below", "note")


def test_another_milter_behind_gateposts_is_told_to_hurry(site: Site) -> None:
    site.main("smtpd_milters = inet:127.0.0.1:8891")
    site.run(site.examine().remedies.apply().replace("keep-front", "inner"))
    notes = site.on_paper()
    assert [(one.service, one.parameter, one.severity) for one in notes] == [
        (site.inner, "milter_content_timeout", "note")
    ]


def test_a_missing_inner_service(site: Site) -> None:
    site.postconf("-MX", site.inner)
    mended(site, site.inner, "proxy.inner", "gatepost has nowhere to pass mail to")


def test_a_socket_moved_in_the_configuration_is_missing_on_the_inner_service(site: Site) -> None:
    site.toml.write_text(site.toml.read_text().replace("milter.sock", "other.sock"))
    mended(site, site.inner, "smtpd_milters", "lacks gatepost's milter")


def test_a_proxy_moved_in_the_configuration_is_found_by_the_record_of_apply(site: Site) -> None:
    site.toml.write_text(site.toml.read_text().replace(site.listen, "127.0.0.1:1"))
    mended(site, site.front, "smtpd_proxy_filter", "but gatepost's proxy.listen is 127.0.0.1:1")


def test_what_apply_refuses_is_a_finding(site: Site) -> None:
    site.postconf("-F", f"{site.inner}/chroot=y")
    other = "127.0.0.1:2525/inet"
    command = f"{other}=127.0.0.1:2525 inet n - y - 10 smtpd -o smtpd_proxy_filter={site.listen}"
    site.postconf("-M", "-e", f"{command} -o smtpd_forbid_bare_newline=yes -o smtpd_forbid_bare_newline_exclusions=")
    (found,) = site.on_paper()
    assert "apply would refuse: the inner service copies the chroot column of its fronts" in found.problem


def test_spellings_of_one_address_are_one_address(site: Site) -> None:
    site.option(site.front, f"smtpd_proxy_filter=inet:{site.listen.replace('127.0.0.1', 'localhost')}")
    assert site.on_paper() == []


def test_a_service_can_be_named(site: Site) -> None:
    other = "127.0.0.1:2525/inet"
    site.postconf("-M", "-e", f"{other}=127.0.0.1:2525 inet n - n - 10 smtpd")
    assert site.on_paper() == []
    (found, *_) = site.on_paper(other)
    assert (found.service, found.parameter) == (other, "smtpd_proxy_filter")


def test_a_postfix_without_the_parameter_against_smuggling_is_told_to_update(site: Site) -> None:
    from dataclasses import replace

    from gatepost.ops.postfix.doctor import smuggling

    facts = site.examine()
    older = replace(facts.configuration, known=facts.configuration.known - {"smtpd_forbid_bare_newline"})
    (note,) = smuggling.find(replace(facts, configuration=older))
    assert (note.parameter, note.severity) == ("smtpd_forbid_bare_newline", "note")
    assert "update to Postfix" in note.remedy
