"""The store when things go wrong: kill -9, other processes, a damaged or full file, and mistakes in its URL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError, Unavailable
from gatepost.services.store.sqlite_store import SqliteStore
from gatepost.services.store.store import Entry, Keep, open_store

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gatepost.db"


WRITER = """
import asyncio, pathlib, sys, time
from gatepost.services.store.store import open_store

async def write(store, worker):
    for number in range(1_000_000):
        await store.put(f"worker{worker}:{number:07}", "x" * 200, None)
        print(worker, number, flush=True)

async def main():
    store = open_store("sqlite:" + sys.argv[1])
    await asyncio.gather(*(write(store, worker) for worker in range(8)))

asyncio.run(main())
"""


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


async def test_what_was_acknowledged_survives_kill_nine(path: Path) -> None:
    with start_python(WRITER, path) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline() for _ in range(500)]
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store = open_store(f"sqlite:{path}")
    kept = {entry.key async for entry in store.list()}
    await store.close()
    assert len(acknowledged) >= 500
    assert {f"worker{worker}:{int(number):07}" for worker, number in map(str.split, acknowledged)} <= kept


COUNTER = """
import asyncio, pathlib, sys, time
from gatepost.services.store.sqlite_store import SqliteStore

async def main():
    sys.stdin.readline()
    # Patient: how long a busy machine keeps one of them from its turn is not at issue.
    store = SqliteStore(pathlib.Path(sys.argv[1]), time.time, busy_timeout_s=60)
    for _ in range(300):
        await store.increment("test:n")
    await store.close()

asyncio.run(main())
"""


async def test_processes_that_make_and_use_the_same_file_together_lose_nothing(path: Path) -> None:
    processes = [start_python(COUNTER, path) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    store = open_store(f"sqlite:{path}")
    assert await store.get("test:n") == 900
    await store.close()


async def test_a_file_that_another_process_is_just_making_is_waited_for(path: Path) -> None:
    await open_store(f"sqlite:{path}").close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        # As it is before its maker has turned on the write-ahead log.
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(asyncio.to_thread(SqliteStore, path, time.time, busy_timeout_s=60))
        await asyncio.sleep(0.05)
        other.execute("ROLLBACK")
        store = await opening
    await store.put("test:k", 1, None)
    await store.close()


async def test_a_locked_file_is_unavailable_and_works_again_when_released(path: Path) -> None:
    store = SqliteStore(path, time.time, busy_timeout_s=0.05)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another process"):
            await store.put("test:k", 1, None)
        assert await store.get("test:k") is None
    await store.put("test:k", 2, None)
    assert await store.get("test:k") == 2
    await store.close()


@pytest.mark.parametrize("mistake", [StopIteration, SystemExit, GeneratorExit, asyncio.CancelledError])
async def test_whatever_a_callers_function_raises_is_that_callers_alone(
    path: Path, mistake: type[BaseException]
) -> None:
    store = SqliteStore(path, time.time)

    def raise_it(entry: Entry | None, now: float) -> Keep[object]:
        raise mistake

    other = asyncio.ensure_future(store.put("test:b", 1, None))  # goes in the same transaction
    with pytest.raises(RuntimeError if mistake is StopIteration else mistake):
        await store.update("test:a", raise_it)
    await other

    assert await store.get("test:b") == 1
    await store.close()


async def test_a_store_that_was_never_asked_closes(path: Path) -> None:
    await SqliteStore(path, time.time).close()


async def test_a_damaged_file_is_unavailable_not_a_raw_error(path: Path) -> None:
    first = open_store(f"sqlite:{path}")
    await asyncio.gather(*(first.put(f"test:{number}", "x" * 100, None) for number in range(500)))
    await first.close()
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    store = open_store(f"sqlite:{path}")
    with pytest.raises(Unavailable, match="damaged"):
        await store.get("test:7")
    with pytest.raises(Unavailable, match="damaged"):
        await store.put("test:7", 1, None)
    await store.close()


FILLER = """
import asyncio, resource, sys
from gatepost.errors import Unavailable
from gatepost.services.store.store import open_store

async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    store = open_store("sqlite:" + sys.argv[1])
    kept = 0
    try:
        while kept < 10_000:
            await store.put(f"test:{kept:05}", "x" * 1000, None)
            kept += 1
    except Unavailable as error:
        print(kept, error.service)
    print(len([entry async for entry in store.list()]))

asyncio.run(main())
"""


def test_a_file_that_cannot_grow_is_unavailable_and_keeps_what_it_had(path: Path) -> None:
    """A limit on the size of files stands for the full disk; the kernel refuses the write either way."""
    process = subprocess.run(
        [sys.executable, "-c", FILLER, path],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kept, service, listed = process.stdout.split()
    assert service == "store"
    assert int(listed) == int(kept) > 10
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- errors at start


def make_other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customer (name TEXT)")


def make_newer_store(path: Path) -> None:
    store = open_store(f"sqlite:{path}")
    asyncio.run(store.close())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.write_text("listen = 25\n" * 100), "is not an SQLite database"),
        (make_other_database, "another program's database"),
        (make_newer_store, "written by a newer gatepost"),
        (lambda path: path.mkdir(), "is a directory"),
    ],
)
def test_a_file_that_is_no_store_stops_the_start(path: Path, prepare: Callable[[Path], None], message: str) -> None:
    prepare(path)
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(f"sqlite:{path}")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_directory_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the directory .*/absent does not exist"):
        open_store(f"sqlite:{tmp_path}/absent/gatepost.db")


OPENER = """
import os, sys
import gatepost.services.store.sqlite_store  # before nobody can no longer read the interpreter's own files
from gatepost.errors import ConfigError
from gatepost.services.store.store import open_store

if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    open_store("sqlite:" + sys.argv[1])
except ConfigError as error:
    print(error)
"""


def test_a_directory_that_may_not_be_written_stops_the_start() -> None:
    """/usr, as nobody if the tests run as root, who may write everywhere."""
    process = subprocess.run(
        [sys.executable, "-c", OPENER, "/usr/gatepost.db"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "/usr cannot be written by user id" in process.stdout
    assert len(process.stdout.splitlines()) == 1


def test_a_directory_that_may_not_be_entered_is_told_in_words() -> None:
    """As /var/lib/gatepost to a user who types `gatepost store list`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "gatepost.db")
        path.parent.chmod(0o750 if os.geteuid() == 0 else 0o600)
        process = subprocess.run(
            [sys.executable, "-c", OPENER, str(path)], stdout=subprocess.PIPE, text=True, check=True
        )
    assert f"{directory} cannot be written by user id" in process.stdout


def test_a_file_that_must_exist_is_not_made(path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist yet"):
        open_store(f"sqlite:{path}", create=False)
    assert not path.exists()


@pytest.mark.parametrize("url", ["", "sqlite:", "sqlite:relative.db", "/var/lib/gatepost.db", "postgres://x/y"])
def test_an_unknown_url_names_the_forms_that_are_known(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:/path/to/file"):
        open_store(url)


def test_redis_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(ConfigError, match=r"later version.*sqlite:"):
        open_store("redis://localhost/0")
