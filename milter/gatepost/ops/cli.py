"""The command line. Errors that are the administrator's to mend become one line each on stderr, and an exit status."""

from __future__ import annotations

import asyncio
import json as json_format
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from gatepost.config import Config, load_config
from gatepost.doors.milter_socket import SocketError, directory_problem
from gatepost.endpoint import Endpoint
from gatepost.errors import EX_CONFIG, EX_TEMPFAIL, ConfigError, Unavailable
from gatepost.hooks import HOOKS
from gatepost.ops import log
from gatepost.ops.demo.commands import demo
from gatepost.ops.postfix.commands import app as postfix_app
from gatepost.ops.service import Service, load_pipeline
from gatepost.ops.store_commands import app as store_app
from gatepost.services.store import open_store

if TYPE_CHECKING:
    from gatepost.pipeline import Pipeline

app = App(
    name="gatepost",
    help="Rules in Python for mail before Postfix queues it: a before-queue proxy and its companion milter.",
    version_flags=["--version"],
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
        debug, info, warning or error: the least severe records that are written to stderr.
    """
    if log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigError(f"--log-level {log_level!r}: write debug, info, warning or error")
    log.configure(log_level)
    settings = load_config(config)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))
    _leave_stuck_threads()
    return 0


async def _serve(settings: Config) -> None:
    service = Service(settings)
    await service.start()
    await service.run_until_stopped()


def _leave_stuck_threads() -> None:
    """End the process here and now if a hook's thread is stuck: Python would wait for it, for ever."""
    threads = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in threads:
        thread.join(THREAD_GRACE_S)
    if stuck := sorted(thread.name for thread in threads if thread.is_alive()):
        structlog.get_logger("gatepost.service").warning("hooks still running are left behind", threads=stuck)
        os._exit(0)


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
def check(*, config: ConfigFile = None) -> int:
    """Check the configuration, the plugins and the files they read; change nothing, start nothing."""
    settings = load_config(config)
    pipeline = asyncio.run(_load_and_stop(settings))
    if problem := directory_problem(Endpoint.parse(settings.milter.socket)):
        print(f"gatepost: warning: {problem}", file=sys.stderr)
    names = ", ".join(loaded.name for loaded in pipeline.plugins) or "none"
    source = settings.file or "the built-in default"
    print(f"{source}: good. Plugins: {names}.")
    return 0


async def _load_and_stop(settings: Config) -> Pipeline:
    """Load the pipeline as the daemon would, on a store in memory, so that a live daemon's is not touched."""
    log.configure("warning")
    store = open_store("sqlite::memory:")
    try:
        pipeline = await load_pipeline(settings, store)
        await pipeline.stop()
    finally:
        await store.close()
    return pipeline


@app.command
def hooks(*, config: ConfigFile = None, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Show the pipeline as it will run: for each hook, the plugins in order.

    Parameters
    ----------
    json
        Print JSON: hook, door and plugins with file and mode.
    """
    pipeline = asyncio.run(_load_and_stop(load_config(config)))
    rows = [
        {
            "hook": hook.name,
            "door": hook.door,
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
    try:
        status = app(exit_on_error=True, result_action="return_value")
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"gatepost: {line}", file=sys.stderr)
        sys.exit(EX_CONFIG)
    except (SocketError, Unavailable) as error:
        print(f"gatepost: {error}", file=sys.stderr)
        sys.exit(EX_TEMPFAIL)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
