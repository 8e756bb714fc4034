"""`gatepost store list|delete`: the real commands on a real store, closed or in use."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError
from gatepost.ops.store_commands import app
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from gatepost.services.store.store import Value


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "gatepost.db"


@pytest.fixture
def config(tmp_path: Path, database: Path) -> str:
    file = tmp_path / "gatepost.toml"
    file.write_text(f'[store]\nurl = "sqlite:{database}"\n')
    return str(file)


def fill(database: Path, entries: dict[str, Value], expires_in_s: float | None = None) -> None:
    async def put() -> None:
        store = open_store(f"sqlite:{database}")
        for key, value in entries.items():
            await store.put(key, value, expires_in_s)
        await store.close()

    asyncio.run(put())


def run(*arguments: str) -> int:
    """Run a command as `gatepost store` does; return its exit status."""
    try:
        app(arguments, result_action="return_value")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def test_json_lists_what_the_prefix_selects(database: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, {"grey:a": {"n": 1}, "grey:b": None, "other:c": 3})
    assert run("list", "grey:", "--json", "--config", config) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"key": "grey:a", "value": {"n": 1}, "expires_at": None},
        {"key": "grey:b", "value": None, "expires_at": None},
    ]


def test_the_table_has_key_value_and_time_left(database: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, {"grey:soon": 7}, expires_in_s=2 * 86400 + 3 * 3600 + 1800)
    fill(database, {"grey:ever": [1]})
    assert run("list", "--config", config) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["KEY", "VALUE", "EXPIRES IN"],
        ["grey:ever", "[1]", "never"],
        ["grey:soon", "7", "2d 3h"],
    ]


def test_a_table_cut_short_says_so(database: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, {f"grey:{number:03}": number for number in range(101)})
    assert run("list", "--config", config) == 0
    out = capsys.readouterr().out
    assert "grey:099" in out
    assert "grey:100" not in out
    assert "the first 100 of more" in out
    assert run("list", "--limit", "101", "--config", config) == 0
    out = capsys.readouterr().out
    assert "grey:100" in out
    assert "of more" not in out


def test_what_a_client_sent_cannot_command_the_terminal(
    database: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(database, {"grey:\x1b[2J\udcff[red]x": "\x9b31m"})
    assert run("list", "--config", config) == 0
    out = capsys.readouterr().out
    assert r"grey:\x1b[2J\udcff[red]x" in out
    assert all(char.isprintable() or char == "\n" for char in out)


def test_an_empty_selection_says_so(database: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, {"grey:a": 1})
    assert run("list", "other:", "--config", config) == 0
    assert capsys.readouterr().out == "no entries that begin with other:\n"


def listed(config: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert run("list", "--json", "--config", config) == 0
    return [entry["key"] for entry in json.loads(capsys.readouterr().out)]


def test_one_key_is_deleted(database: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, {"grey:a": 1, "grey:ab": 1})
    assert run("delete", "grey:a", "--config", config) == 0
    assert capsys.readouterr().out == "1 entry deleted\n"
    assert listed(config, capsys) == ["grey:ab"]
    assert run("delete", "grey:a", "--config", config) == 1
    assert "no entry has the key grey:a" in capsys.readouterr().err


def test_a_prefix_is_deleted(database: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, {"grey:a": 1, "grey:b": 1, "other:c": 1})
    assert run("delete", "--prefix", "grey:", "--config", config) == 0
    assert capsys.readouterr().out == "2 entries deleted\n"
    assert listed(config, capsys) == ["other:c"]


def test_everything_is_deleted_only_with_yes(database: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(database, {"grey:a": 1, "other:c": 1})
    assert run("delete", "--prefix", "", "--config", config) == 64
    assert "--yes" in capsys.readouterr().err
    assert listed(config, capsys) == ["grey:a", "other:c"]
    assert run("delete", "--prefix", "", "--yes", "--config", config) == 0
    assert listed(config, capsys) == []


@pytest.mark.parametrize("arguments", [(), ("grey:a", "--prefix", "grey:"), ("grey",)])
def test_a_delete_that_makes_no_sense_deletes_nothing(
    database: Path, config: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    fill(database, {"grey:a": 1})
    assert run("delete", *arguments, "--config", config) == 64
    assert listed(config, capsys) == ["grey:a"]


def test_a_store_that_does_not_exist_is_not_made(database: Path, config: str) -> None:
    with pytest.raises(ConfigError, match="does not exist yet"):
        run("list", "--config", config)
    assert not database.exists()


def test_a_live_store_goes_on_while_its_entries_are_listed_and_deleted(database: Path, config: str) -> None:
    async def scenario() -> int:
        store = open_store(f"sqlite:{database}", time.time)
        for number in range(20):
            await store.put(f"old:{number}", number, None)
        commands = asyncio.gather(
            asyncio.to_thread(run, "list", "--json", "--config", config),
            asyncio.to_thread(run, "delete", "--prefix", "old:", "--config", config),
        )
        done = 0
        while not commands.done():
            done += 1
            assert await store.increment("live:n") == done
        assert list(await commands) == [0, 0]
        assert [entry.key async for entry in store.list()] == ["live:n"]
        await store.close()
        return done

    assert asyncio.run(scenario()) > 0
