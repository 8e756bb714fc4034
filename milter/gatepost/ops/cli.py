"""The command line. Errors that are the administrator's to mend become one line each on stderr, and an exit status."""

from __future__ import annotations

import asyncio
import json as json_format
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from gatepost.configuration.config import read_config
from gatepost.doors.milter_socket import SocketError
from gatepost.errors import EX_CONFIG, EX_TEMPFAIL, ConfigError, Unavailable
from gatepost.hooks import HOOKS
from gatepost.ops import log
from gatepost.ops.assembly import load_pipeline, refuse
from gatepost.ops.check import report
from gatepost.ops.check.examination import examine
from gatepost.ops.demo.commands import demo
from gatepost.ops.postfix.commands import app as postfix_app
from gatepost.ops.service import Service
from gatepost.ops.store_commands import app as store_app
from gatepost.services import processor
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.configuration.config import Config
    from gatepost.pipeline.pipeline import Pipeline

app = App(
    name="gatepost",
    help="Rules in Python for mail before Postfix queues it: a before-queue proxy and its companion milter.",
    version_flags=["--version"],
    default_parameter=Parameter(show_default=False),  # "[default: ()]" tells nobody anything; the texts do
)
app.command(store_app)
app.command(postfix_app)
app.command(demo)

THREAD_GRACE_S = 1.0
"""How long a thread may take to end after everything else has."""

ConfigFile = Annotated[
    Path | None, Parameter(name="--config", help="Configuration file; default /etc/gatepost/gatepost.toml.")
]


@app.command
def run(*, config: ConfigFile = None, log_level: str = "info") -> int:
    """Run the daemon in the foreground: SIGHUP reloads, SIGTERM ends it once the messages under way are done.

    Parameters
    ----------
    log_level
        debug, info, warning or error: the least severe records that are written to stderr; default info.
    """
    if log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigError(f"--log-level {log_level!r}: write debug, info, warning or error")
    log.configure(log_level)
    settings, wrong = read_config(config)
    with _event_loop() as runner:
        runner.run(refuse(settings, wrong) if wrong else Service(settings).run())
    return 0


@contextmanager
def _event_loop() -> Iterator[asyncio.Runner]:
    """Run coroutines with threads that do not keep the process from ending, however long a plugin is stuck in them."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        threads = ThreadPoolExecutor(thread_name_prefix="work")
        runner.get_loop().set_default_executor(threads)
        try:
            yield runner
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            # For the runner to wait for, which would wait for ever for the others.
            runner.get_loop().set_default_executor(ThreadPoolExecutor(1))


def _leave_stuck_threads(status: int) -> None:
    """End the process here and now if a hook's thread is stuck: Python would wait for it, for ever."""
    processor.shutdown()
    threads = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in threads:
        thread.join(THREAD_GRACE_S)
    if stuck := sorted(thread.name for thread in threads if thread.is_alive()):
        structlog.get_logger("gatepost.service").warning("hooks still running are left behind", threads=stuck)
        sys.stdout.flush()
        os._exit(status)


def _loop_factory() -> Any:
    """Return uvloop's event loop if it is installed (the extra `gatepost[uvloop]`), else None for asyncio's own.

    GATEPOST_LOOP=asyncio or uvloop in the environment says which, for tests and for trouble.
    """
    wanted = os.environ.get("GATEPOST_LOOP", "")
    if wanted not in {"", "asyncio", "uvloop"}:
        raise ConfigError(f"GATEPOST_LOOP={wanted} in the environment: write asyncio or uvloop, or unset it")
    if wanted == "asyncio":
        return None
    try:
        import uvloop
    except ImportError as error:
        if wanted:
            raise ConfigError("GATEPOST_LOOP=uvloop, but uvloop is not installed: pip install uvloop") from error
        return None
    return uvloop.new_event_loop


@app.command
def check(*, config: ConfigFile = None, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Check the configuration, the plugins and the files they read, all at once; change nothing, start nothing.

    Exit status 0 when the daemon would start (there may be warnings), 78 when it would not.

    Parameters
    ----------
    json
        Print JSON: a list of findings with severity (error, warning, note), file, line and problem.
    """
    # What plugins print must not get into the JSON.
    with _event_loop() as runner, redirect_stdout(sys.stderr):
        examination = runner.run(examine(config))
    return report.show(examination, as_json=json)


async def _load(file: Path | None) -> tuple[Config, Pipeline]:
    """Load what the daemon would, on a store in memory, so that a live one's is not touched."""
    log.configure("warning")
    config, wrong = read_config(file)
    store = open_store("sqlite::memory:")
    try:
        return config, await load_pipeline(config, store, wrong=wrong)
    finally:
        await store.close()


@app.command
def hooks(*, config: ConfigFile = None, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Show the pipeline as it will run: for each hook, its door with this configuration, and the plugins in order.

    Parameters
    ----------
    json
        Print JSON: hook, door and plugins with file and mode.
    """
    loaded, pipeline = asyncio.run(_load(config))
    rows = [
        {
            "hook": hook.name,
            "door": hook.door_with(edge=loaded.milter.edge),
            "plugins": [
                {
                    "name": call.loaded.name,
                    "mode": call.loaded.plugin.options().mode,
                    "file": str(call.loaded.file),
                }
                for call in pipeline.calls[hook.name]
            ],
        }
        for hook in HOOKS.values()
    ]
    if json:
        print(json_format.dumps(rows, indent=2))
        return 0
    table = Table("hook", "door", "plugins, in order", box=None, header_style="bold")
    for row in rows:
        plugins: Any = row["plugins"]
        shown = [p["name"] if p["mode"] == "enforce" else f"{p['name']} ({p['mode']})" for p in plugins]
        table.add_row(str(row["hook"]), str(row["door"]), ", ".join(shown) or "-")
    Console().print(table)
    return 0


def main() -> None:
    """Run the command line; the entry point of the `gatepost` script."""
    status = _status()
    _leave_stuck_threads(status)
    sys.exit(status)


def _status() -> int:
    try:
        status = app(exit_on_error=True, result_action="return_value")
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"gatepost: {line}", file=sys.stderr)
        return EX_CONFIG
    except (SocketError, Unavailable) as error:
        print(f"gatepost: {error}", file=sys.stderr)
        return EX_TEMPFAIL
    except KeyboardInterrupt:
        return 130
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
