"""A private Postfix with gatepost applied, not running: break one thing, see one finding, mend it."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from gatepost.configuration.config import load_config
from gatepost.ops.postfix import commands, postconf
from gatepost.ops.postfix.backup import Backup
from gatepost.ops.postfix.doctor import diagnosis, examination, roster
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from pathlib import Path

    from gatepost.ops.postfix.doctor.finding import Finding

MAIN = {
    "mydestination": "local.test",
    "relay_domains": "relay.test",
    "virtual_alias_domains": "alias.test",
    "virtual_mailbox_domains": "virtual.test",
    "mynetworks": "127.0.0.0/8",
}


class Site:
    """A directory that user postfix can enter, with the Postfix, gatepost's configuration and the files of plugins."""

    def __init__(self, directory: Path, *, edge: bool = False) -> None:
        self.directory = directory
        self._edge = edge
        self.postfix = PrivatePostfix(directory / "postfix", main=MAIN)
        self.etc = self.postfix.config_dir
        self.queue = self.postfix.queue_dir
        self.front = self.postfix.front_service
        self.listen = f"127.0.0.1:{free_loopback_port()}"
        self.inner_address = f"127.0.0.1:{free_loopback_port()}"
        self.inner = f"{self.inner_address}/inet"
        self.socket = self.queue / "gatepost" / "milter.sock"
        self.toml = directory / "gatepost.toml"
        (directory / "bin").mkdir()
        command = directory / "bin" / "gatepost"
        command.write_text(f"#!{sys.executable}\nfrom gatepost.ops.cli import main\nmain()\n")
        command.chmod(0o755)
        self.configure()
        self.make_socket_directory()
        self.age()
        self.apply()
        self._kept = directory / "kept"
        shutil.copytree(self.etc, self._kept)

    def configure(self, plugins: str = "", **sections: str) -> None:
        """Write gatepost's configuration; `sections` are further lines of [proxy], [milter] or [content]."""
        own = {
            "proxy": f'listen = "{self.listen}"\ninner = "{self.inner_address}"\n',
            "milter": f'socket = "unix:{self.socket}"\n' + "edge = true\n" * self._edge,
        }
        names = dict.fromkeys((*own, *sections))
        self.toml.write_text(
            "".join(f"[{name}]\n{own.get(name, '')}{sections.get(name, '')}\n" for name in names) + plugins
        )

    def make_socket_directory(self) -> None:
        """As the tmpfiles line of the package makes it."""
        directory = self.socket.parent
        directory.mkdir(exist_ok=True)
        owner = 0
        with suppress(KeyError):
            owner = pwd.getpwnam("gatepost").pw_uid
        os.chown(directory, owner, grp.getgrnam("postfix").gr_gid)
        directory.chmod(0o2750)

    def apply(self) -> None:
        """Put gatepost before the front."""
        self.run(f"gatepost postfix apply --config {self.toml} --config-dir {self.etc} --service {self.front}")

    def restore(self) -> None:
        """As it was right after apply."""
        for file in ("main.cf", "master.cf", "gatepost-backup/record.json"):
            shutil.copyfile(self._kept / file, self.etc / file)
        self.age()
        self.configure()
        shutil.rmtree(self.socket.parent)
        self.make_socket_directory()

    def age(self) -> None:
        # Postfix waits for two seconds before it reads a main.cf that is younger (util/dict.c, dict_load_file_xt).
        os.utime(self.etc / "main.cf", (0, 0))

    def postconf(self, *arguments: str) -> None:
        subprocess.run(["postconf", "-c", str(self.etc), *arguments], check=True, capture_output=True)
        self.age()

    def option(self, service: str, setting: str) -> None:
        """Set one `-o`, NAME=VALUE, of a service."""
        self.postconf("-P", f"{service}/{setting}")

    def main(self, *settings: str) -> None:
        """Set parameters of main.cf."""
        self.postconf("-e", *settings)

    def file(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def examine(self, *services: str) -> examination.Examination:
        """All the facts, as the command gathers them."""
        config = load_config(self.toml)
        there = postconf.open_directory(self.etc)
        record = Backup(self.etc).record()
        return examination.examine(config, asyncio.run(roster.read(config)), there, record, services, self.toml)

    def on_paper(self, *services: str) -> list[Finding]:
        """What the doctor finds without looking at live sockets."""
        return diagnosis.on_paper(self.examine(*services))

    def findings(self) -> list[tuple[str, str]]:
        """Service and parameter of every finding; notes are left out."""
        return [(one.service, one.parameter) for one in self.on_paper() if one.severity == "finding"]

    def run(self, command: str) -> None:
        """Run a line as a shell would; gatepost itself within this process, which saves its start."""
        words = shlex.split(command)
        if words[:2] == ["gatepost", "postfix"] and "&&" not in words:
            assert commands.app(words[2:], exit_on_error=False, result_action="return_value") == 0
        else:
            path = os.pathsep.join((str(self.directory / "bin"), os.environ["PATH"], "/usr/sbin"))
            environment = {**os.environ, "PATH": path}
            done = subprocess.run(["sh", "-ec", command], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stderr)
        self.age()
