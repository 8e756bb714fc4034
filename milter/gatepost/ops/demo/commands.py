"""The command `gatepost demo`."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path  # noqa: TC003 - cyclopts reads it at run time
from typing import Annotated, Final

from cyclopts import Parameter

from gatepost.configuration.loader import bundled_directory
from gatepost.errors import EX_TEMPFAIL
from gatepost.ops import log
from gatepost.ops.demo.files import BLACK_TIMEOUT_S, DOMAIN
from gatepost.ops.demo.interruption import Interrupted, Interruption
from gatepost.ops.demo.scenes import Tour
from gatepost.ops.demo.screen import Screen, Step
from gatepost.ops.demo.stage import Stage

_LOOK_S: Final = 0.5
"""How often `--keep` looks whether the daemon still runs."""


def demo(
    *,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
    keep: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Show gatepost at work on a private Postfix in a temporary directory; nothing of this host's mail is touched.

    Ends with 0 if every step went as it should, with 1 otherwise. Needs root, because Postfix does.

    Parameters
    ----------
    config
        Show the plugins of this configuration file instead of the demo's own; nothing else in it counts, and the files
        that they read are the demo's.
    keep
        Leave everything running in the end, and say how to talk to it, until Ctrl-C.
    """
    if os.geteuid() != 0:
        print("gatepost: the demo starts a Postfix of its own, which only root can: run it with sudo", file=sys.stderr)
        return EX_TEMPFAIL
    # The trial load of the plugins would tell what the daemon tells again.
    log.configure("error")
    with Interruption() as interruption:
        try:
            return _play(config, interruption, keep=keep)
        except Interrupted as interrupted:
            return interrupted.status


def _play(config: Path | None, interruption: Interruption, *, keep: bool) -> int:
    screen = Screen()
    with Stage(config, interruption) as stage:
        screen.say("gatepost between two smtpd of a private Postfix. Nothing of this host's mail is touched.")
        with screen.progress("Starting gatepost"):
            stage.start_daemon()
        with screen.progress("Putting it into a private Postfix (gatepost postfix apply)"):
            stage.apply()
        with screen.progress("Starting Postfix"):
            stage.start_postfix()
        _introduce(screen, stage)
        steps = Tour(stage.postfix, stage.plugins, screen).run()
        screen.summary(steps)
        if keep:
            _keep(screen, stage)
        failed = [step for step in steps if not step.ok]
        _conclude(screen, stage, failed, len(steps))
    return 1 if failed else 0


def _introduce(screen: Screen, stage: Stage) -> None:
    names = ", ".join(entry.name for entry in stage.plugins.entries) or "none"
    screen.say()
    screen.say(
        f"client --> Postfix :{stage.postfix.front_port} --> gatepost :{stage.daemon.proxy_port} --> "
        f"Postfix :{stage.daemon.inner_port} --> queue      (all on 127.0.0.1)",
        "bold",
    )
    screen.say(f"The plugins, in order: {names}.")
    screen.say(
        f"Each is one file with its manual at the top; those that come with gatepost are in {bundled_directory()}."
    )


def _keep(screen: Screen, stage: Stage) -> None:
    """Say how to talk to what runs, and wait for a signal; ConfigError if the daemon ends by itself."""
    etc, toml, port = stage.postfix.config_dir, stage.daemon.config_file, stage.postfix.front_port
    swaks = f"swaks --server 127.0.0.1:{port} --from anna@example.net"
    screen.say(f"Everything is still running, in {stage.directory}. From another terminal, as root:")
    screen.literal(
        f"""
  {swaks} --to gina@{DOMAIN}       # twice, {BLACK_TIMEOUT_S} s apart
  {swaks} --to nobody@{DOMAIN}
  {swaks} --to gina@{DOMAIN} --xclient "ADDR=192.0.2.77 NAME=mail.example.net"

  postqueue -c {etc} -p                  # what is in the queue
  postcat -c {etc} -bhq QUEUE_ID         # one message of it
  gatepost postfix show --config-dir {etc} --config {toml}
  gatepost hooks --config {toml}
  gatepost store list greylist: --config {toml}
  tail -f {stage.daemon.log_file}
  editor {toml}; kill -HUP {stage.daemon.pid}    # change it, reload
"""
    )
    try:
        # Whoever reads this may do so at once.
        screen.say(f"Ctrl-C here (or kill {os.getpid()}) ends it all and removes the directory.", "bold")
        while True:
            # Raises ConfigError once the daemon does not run any more.
            _ = stage.daemon.pid
            time.sleep(_LOOK_S)
    except Interrupted:
        screen.say()


def _conclude(screen: Screen, stage: Stage, failed: list[Step], count: int) -> None:
    """Print the last lines."""
    if not failed:
        screen.say(f"All {count} steps went as they should.", "bold green")
        return
    if said := [line for line in stage.daemon.log().splitlines() if re.search(r" level=(warning|error) ", line)]:
        screen.say("What gatepost logged:")
        screen.literal("\n".join(said[-5:]))
    screen.say(f"{len(failed)} of {count} steps did not go as they should:", "bold red")
    for step in failed:
        screen.literal(str(step), "bold red")
