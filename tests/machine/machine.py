"""A machine to try things on that belong to a whole machine: systemd units, /etc, port 25.

It is made of namespaces: its own process tree with the real systemd as process 1, its own loopback network, and its own
view of the file system, in which every write goes to memory and is gone with it. What is installed here is installed
there. Needs root, as the private Postfix does.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

Result = subprocess.CompletedProcess[str]

CHECKOUT: Final = Path(__file__).parents[2]

BOOT_S: Final = 60.0
"""systemd is up in two seconds; a noisy machine takes longer."""

_BOOT: Final = r"""
set -e
mount --make-rprivate /
scratch=$1; shift
mount -t tmpfs -o size=2g,mode=755 tmpfs "$scratch"
number=0
# /tmp last: it hides $scratch.
for directory in /etc /opt /var /usr /root /home "$@" /tmp; do
    number=$((number + 1)); mkdir -p "$scratch/$number/up" "$scratch/$number/work"
    layers=lowerdir=$directory,upperdir=$scratch/$number/up,workdir=$scratch/$number/work
    mount -t overlay overlay -o "$layers" "$directory"
done
for directory in /run /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$directory"; done
chmod 755 /run
umount -l -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Of what a bare machine does when it starts, the journal is all that is wanted. The rest reaches for what is not in a
# namespace: the clock, devices, kernel parameters.
: >/etc/fstab
rm -rf /etc/systemd/system-generators; mkdir -p /etc/systemd/system-generators /etc/systemd/system
for generator in /usr/lib/systemd/system-generators/systemd-*; do
    ln -s /dev/null "/etc/systemd/system-generators/${generator##*/}"
done
for target in sysinit basic local-fs timers sockets multi-user graphical; do
    for wants in /etc/systemd/system /usr/lib/systemd/system; do
        find "$wants/$target.target.wants" -mindepth 1 ! -name 'systemd-journald*' -delete 2>/dev/null || true
    done
done
export container=gatepost-test
exec /lib/systemd/systemd --system --unit=basic.target --show-status=0 --log-target=journal
"""
"""Overlays and tmpfs lie over whatever a system manager writes to, /tmp too: it empties that at the start."""


class NamespaceError(Exception):
    """This kernel, or the container that this runs in, lets nobody make such a machine; the text says what it said."""


class Machine:
    """One machine; a context manager that boots it and takes it away."""

    def __init__(self, directory: Path) -> None:
        self._scratch = directory / "machine"
        self._console = directory / "console"
        self._process: subprocess.Popen[bytes]
        self._init: int

    def __enter__(self) -> Self:
        """Boot; RuntimeError with what was printed when systemd does not come up, NamespaceError if it may not."""
        self._scratch.mkdir()
        console = self._console.open("wb")
        command = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--mount-proc"]
        command += ["--kill-child", "bash", "-c", _BOOT, "boot", str(self._scratch), str(CHECKOUT)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        console.close()
        deadline = time.monotonic() + BOOT_S
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                if re.search("not permitted|ermission denied|unknown filesystem", self._console.read_text()):
                    raise NamespaceError(self._console.read_text().strip())
                raise RuntimeError(f"systemd did not come up: {self._console.read_text()}")
            time.sleep(0.1)
        self.run("ip link set lo up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill process 1, and with it everything else there."""
        with contextlib.suppress(AttributeError, ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # unshare takes note of the death of process 1, which is its child, and ends by itself.
            self._process.wait(10.0 if hasattr(self, "_init") else 0.0)
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(AttributeError):
            while Path(f"/proc/{self._init}").exists():
                time.sleep(0.05)

    def _is_up(self) -> bool:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            self._init = int(children.read_text().split()[0])
            name = Path(f"/proc/{self._init}/comm").read_text().strip()
        except (OSError, IndexError):
            return False  # not yet there, or gone again
        if name != "systemd":
            return False
        return self.attempt("systemctl is-active basic.target").stdout.strip() == "active"

    def attempt(self, command: str, *, timeout_s: float = 120.0, internet: bool = False) -> Result:
        """Run a shell command as root in the checkout there; `internet` lends it this machine's network."""
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup", *([] if internet else ["--net"])]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        if internet:
            environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
            environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        return subprocess.run(
            ["nsenter", "--target", str(self._init), *namespaces, f"--wd={CHECKOUT}", "bash", "-c", command],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def run(self, command: str, *, timeout_s: float = 120.0, internet: bool = False) -> str:
        """Run a shell command as `attempt` does and return what it printed; AssertionError if it fails."""
        result = self.attempt(command, timeout_s=timeout_s, internet=internet)
        assert result.returncode == 0, f"{command}: exit {result.returncode}\n{result.stdout}"
        return result.stdout
