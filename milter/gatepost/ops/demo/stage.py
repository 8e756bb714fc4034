"""What the demo plays on: a private Postfix, the daemon behind it, and a temporary directory that holds all of it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from gatepost.ops.demo import files
from gatepost.ops.demo.plugin_set import PluginSet
from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import PrivatePostfix

if TYPE_CHECKING:
    from gatepost.ops.demo.interruption import Interruption


class Stage:
    """Set up by `__init__`, then `start_daemon`, `apply`, `start_postfix`; all of it is gone when it is left.

    `config` is the file whose plugins are used, None for the demo's own. Raises ConfigError for what is wrong in it.
    """

    def __init__(self, config: Path | None, interruption: Interruption) -> None:
        self._interruption = interruption
        self._clean_up = contextlib.ExitStack()
        with interruption.held():
            self.directory = Path(tempfile.mkdtemp(prefix="gatepost-demo-"))
            self._clean_up.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self._lay_out(config)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the stage."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _lay_out(self, config: Path | None) -> None:
        # User postfix must be able to enter.
        self.directory.chmod(0o755)
        self.daemon = PrivateDaemon(self.directory)
        self.plugins = PluginSet.choose(config, files.lay_out(self.directory), self.daemon.hooks_dir)
        domains = {"relay_domains": files.DOMAIN, "myhostname": f"mx.{files.DOMAIN}"}
        self.postfix = PrivatePostfix(self.directory / "postfix", main=domains)
        self.daemon.configure(
            self.plugins.tables(),
            {
                "milter": {"socket": f"unix:{_socket_directory(self.postfix)}/milter.sock"},
                "hooks": {"directory": str(self.plugins.hooks)},
            },
        )
        # In the end Postfix goes first, so that it never talks to a gatepost that is gone.
        for end in (self.daemon.stop, self._kill_stragglers, self.postfix.stop):
            self._clean_up.callback(end)

    def start_daemon(self) -> None:
        """Run `gatepost run`, and return when it is ready."""
        with self._interruption.held():
            self.daemon.start()

    def apply(self) -> None:
        """Put gatepost into the private Postfix's configuration, with `gatepost postfix apply`."""
        self.daemon.apply(self.postfix.config_dir, self.postfix.front_service)

    def start_postfix(self) -> None:
        """Start it; gatepost runs by then."""
        with self._interruption.held():
            self.postfix.start()

    def close(self) -> None:
        """End every process and remove the directory, whatever state they are in."""
        with self._interruption.held():
            self._clean_up.close()

    def _kill_stragglers(self) -> None:
        """Kill what is left of our Postfix: a Ctrl-C in the middle of `postfix start` may hide it from its `stop`."""
        programs = Path(self.postfix.postconf("-h", "daemon_directory")).resolve()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    ours = (entry / "cwd").readlink() == self.postfix.queue_dir
                    if ours and (entry / "exe").readlink().parent == programs:
                        os.kill(int(entry.name), signal.SIGKILL)


def _socket_directory(postfix: PrivatePostfix) -> Path:
    """Make the milter socket's directory where the tmpfiles rule has it: sockets in it get Postfix's group."""
    directory = postfix.queue_dir / "gatepost"
    directory.mkdir()
    os.chown(directory, 0, pwd.getpwnam(postfix.postconf("-h", "mail_owner")).pw_gid)
    directory.chmod(0o2750)
    return directory
