"""`gatepost store`: look at what plugins remember, and make them forget it, beside a running daemon.

Both open the file as one more process; the daemon waits a few milliseconds at most.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gatepost.configuration.config import load_config
from gatepost.errors import EX_TEMPFAIL, Unavailable
from gatepost.services.store.store import Entry, Store, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EX_USAGE = 64
"""sysexits(3): the command line does not make sense."""

# A store of a busy server holds millions of entries; a screen holds few.
_TABLE_ENTRIES = 100

_UNITS_S = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))

app = App(name="store", help="List or delete what plugins remember.")

ConfigFile = Annotated[Path | None, Parameter(name="--config", help="Configuration file whose [store] url is used.")]

Flag = Annotated[bool, Parameter(negative="")]


@app.command(name="list")
def list_entries(
    prefix: str = "", /, *, json: Flag = False, limit: int | None = None, config: ConfigFile = None
) -> None:
    """List the entries whose keys begin with PREFIX, such as "greylist:", in order.

    Parameters
    ----------
    prefix
        Beginning of the keys; without it, all are listed.
    json
        Print one JSON array of {key, value, expires_at}; expires_at is Unix time in seconds or null.
    limit
        At most so many entries; without it, 100 in a table and all as JSON.
    """
    asyncio.run(_list(prefix, as_json=json, limit=limit, config=config))


@app.command
def delete(
    key: str | None = None, /, *, prefix: str | None = None, yes: Flag = False, config: ConfigFile = None
) -> None:
    """Delete one entry, or all whose keys begin with a prefix; says how many.

    Parameters
    ----------
    key
        The whole key, as `list` shows it; exit 1 if there is no such entry.
    prefix
        Beginning of the keys, such as "greylist:"; the empty "" means every entry of every plugin.
    yes
        Needed to delete every entry.
    """
    asyncio.run(_delete(key, prefix, yes=yes, config=config))


async def _list(prefix: str, *, as_json: bool, limit: int | None, config: Path | None) -> None:
    async with _store(config) as store:
        if as_json:
            entries = [_plain(entry) async for entry in store.list(prefix, limit)]
            sys.stdout.write(json.dumps(entries, indent=2) + "\n")
            return
        shown = _TABLE_ENTRIES if limit is None else limit
        rows = [entry async for entry in store.list(prefix, shown + 1)]
    # Into a pipe the lines stay whole, for grep.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    if not rows:
        console.print("no entries" if not prefix else f"no entries that begin with {_visible(prefix)}", markup=False)
        return
    console.print(_table(rows[:shown], time.time()))
    if len(rows) > shown and limit is None:
        console.print(f"the first {shown} of more; see all with --limit N or --json")


async def _delete(key: str | None, prefix: str | None, *, yes: bool, config: Path | None) -> None:
    console = Console(soft_wrap=True, markup=False, highlight=False)
    if (key is None) == (prefix is None):
        _stop("say what to delete: either one KEY or --prefix PREFIX", EX_USAGE)
    if prefix == "" and not yes:
        _stop('an empty prefix means every entry of every plugin; if that is what you want, add "--yes"', EX_USAGE)
    if key is not None and ":" not in key:
        _stop(f"{_visible(key)} is no whole key; every key has a colon, see: gatepost store list", EX_USAGE)
    async with _store(config) as store:
        if prefix is not None:
            count = await store.delete_prefix(prefix)
            console.print(f"{count} {'entry' if count == 1 else 'entries'} deleted")
        elif key is not None and await store.delete(key):
            console.print("1 entry deleted")
        else:
            _stop(f"no entry has the key {_visible(key or '')}", 1)


@asynccontextmanager
async def _store(config: Path | None) -> AsyncIterator[Store]:
    """Open the configured store, which must exist: made by root here, the daemon could not write it."""
    loaded = load_config(config)
    store = open_store(loaded.store.url, create=False)
    try:
        yield store
    except Unavailable as error:
        _stop(str(error), EX_TEMPFAIL)
    finally:
        await store.close()


def _stop(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"gatepost: {message}\n")
    raise SystemExit(status)


def _plain(entry: Entry) -> dict[str, object]:
    return {"key": entry.key, "value": entry.value, "expires_at": entry.expires_at}


def _table(entries: list[Entry], now: float) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("KEY", overflow="fold")
    table.add_column("VALUE", overflow="fold")
    table.add_column("EXPIRES IN", justify="right", no_wrap=True)
    for entry in entries:
        value = json.dumps(entry.value, ensure_ascii=False)
        table.add_row(Text(_visible(entry.key)), Text(_visible(value)), _remaining(entry.expires_at, now))
    return table


def _remaining(expires_at: float | None, now: float) -> str:
    """Return the two greatest units, `35d 23h` or `4m 10s`."""
    if expires_at is None:
        return "never"
    left = max(int(expires_at - now), 0)
    parts: list[str] = []
    for unit, size_s in _UNITS_S:
        count, left = divmod(left, size_s)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def _visible(text: str) -> str:
    """Escape what does not print: keys hold what clients sent, and a terminal would obey it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
