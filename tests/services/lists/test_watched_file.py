"""Watched files: the newest good version counts from the next look on, and a bad one is only logged."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gatepost.errors import ConfigError
from gatepost.services.lists.watched_file import INLINE_LIMIT_BYTES, WatchedFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def parse(text: str, path: Path) -> list[str]:
    lines = text.splitlines()
    if "bad" in lines:
        raise ConfigError("bad line", path, lines.index("bad") + 1)
    if "bug" in lines:
        raise ValueError("a bug of the parser")
    return lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "list"
    file.write_text("one\n")
    return file


def replace(file: Path, text: str) -> None:
    """Write a new version as editors do: another file under the same name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def poll(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


def test_the_next_look_after_a_change_has_the_new_version(file: Path) -> None:
    watched = WatchedFile(file, parse)
    assert watched.value == ["one"]
    replace(file, "two\n")
    assert watched.value == ["two"]
    replace(file, "three\n")
    assert watched.value == ["three"]


def test_a_version_of_the_same_size_and_time_under_another_inode_is_a_change(file: Path) -> None:
    watched = WatchedFile(file, parse)
    before = file.stat()
    replace(file, "two\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert watched.value == ["two"]


def test_a_file_that_did_not_change_is_not_parsed_again(file: Path) -> None:
    parsed: list[str] = []
    watched = WatchedFile(file, lambda text, path: parsed.append(text))
    for _ in range(5):
        assert watched.value is None

    assert parsed == ["one\n"]


@pytest.mark.parametrize("text", ["one\nbad\n", "one\nbug\n"])
def test_a_bad_version_is_logged_once_and_the_old_one_stays(file: Path, text: str) -> None:
    watched = WatchedFile(file, parse)
    replace(file, text)
    with capture_logs() as logs:
        assert [watched.value for _ in range(3)] == [["one"]] * 3

    (entry,) = logs
    assert entry["log_level"] == "error"
    assert entry["problem"] in {f"{file}:2: bad line", "ValueError: a bug of the parser"}
    replace(file, "mended\n")
    assert watched.value == ["mended"]


def test_a_file_that_is_gone_for_a_while_is_logged_and_the_old_version_stays(file: Path) -> None:
    watched = WatchedFile(file, parse)
    file.unlink()
    with capture_logs() as logs:
        assert [watched.value for _ in range(3)] == [["one"]] * 3
    assert ["No such file" in entry["problem"] for entry in logs] == [True]
    file.write_text("back\n")
    assert watched.value == ["back"]


def test_a_version_that_is_not_utf8_is_told_with_its_line(file: Path) -> None:
    watched = WatchedFile(file, parse)
    file.write_bytes(b"one\ncaf\xe9\n")
    with capture_logs() as logs:
        assert watched.value == ["one"]

    assert logs[0]["problem"] == f"{file}:2: not UTF-8 text: save the file as UTF-8"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read {file}: No such file or directory"),
        (b"one\nbad\n", "bad line"),
        (b"\n\n\xff\n", "not UTF-8 text: save the file as UTF-8"),
    ],
)
def test_at_the_start_a_bad_file_is_an_error(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "start"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        WatchedFile(file, parse)

    assert caught.value.message == problem.format(file=file)
    assert caught.value.file == file


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        WatchedFile(tmp_path, parse)


async def test_a_large_version_is_parsed_in_a_thread_while_the_old_one_serves(file: Path) -> None:
    release = threading.Event()
    threads: list[threading.Thread] = []

    def parse_slowly(text: str, path: Path) -> int:
        threads.append(threading.current_thread())
        if len(text) > INLINE_LIMIT_BYTES:
            release.wait(60)
        return len(text)

    watched = WatchedFile(file, parse_slowly)
    replace(file, "x" * (INLINE_LIMIT_BYTES + 1))
    assert [watched.value for _ in range(3)] == [4, 4, 4]
    release.set()
    await poll(lambda: watched.value == INLINE_LIMIT_BYTES + 1)

    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()
    assert len(threads) == 2


async def test_a_bad_large_version_does_not_stop_later_ones(file: Path) -> None:
    def parse_size(text: str, path: Path) -> int:
        if text.startswith("bug"):
            raise ValueError("a bug of the parser")
        return len(text)

    watched = WatchedFile(file, parse_size)
    with capture_logs() as logs:
        replace(file, "bug" + "x" * INLINE_LIMIT_BYTES)
        assert watched.value == 4
        await poll(lambda: bool(logs))
    replace(file, "mended\n")
    await poll(lambda: watched.value == 7)
