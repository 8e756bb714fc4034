"""What a private Postfix stands on: its directories, main.cf and master.cf, and the ports it may use.

It writes files and starts nothing; `gatepost.ops.private_postfix` runs what is laid out here.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The administration commands are not on an ordinary user's PATH, and cron's is shorter still.
_SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])

# Below Linux's ephemeral ports (32768 and up): no outgoing connection of the host can take one between our look and
# Postfix's bind(). Each process takes them by the block, so that no other demo or test is given the same one meanwhile.
_PORTS: Final = range(20000, 32000)
_BLOCK: Final = 100
_own_ports: list[int] = []

_MAIN_CF: Final = {
    "compatibility_level": "3.6",
    "myhostname": "mx.gatepost.test",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "all",
    "mydestination": "",
    "relay_domains": "example.org, example.net, gatepost.test",
    "alias_maps": "",
    "alias_database": "",
    # A client on 127.0.0.1 is a stranger, so that Postfix's own rules are seen at work; by XCLIENT it can be anyone.
    # permit_inet_interfaces, the default of the second, looks through XCLIENT at the socket.
    "mynetworks": "",
    "local_header_rewrite_clients": "",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
    "smtpd_authorized_xclient_hosts": "127.0.0.0/8, [::1]/128",
    "smtpd_peername_lookup": "no",
    "smtp_dns_support_level": "disabled",
    # Accepted mail stays in the queue: nothing listens on port 1.
    "transport_maps": "static:{smtp:[127.0.0.1]:1}",
    "notify_classes": "",
    "fast_flush_domains": "",
    # Penalties that only slow a test down: the pause after an error, and the count of connections.
    "smtpd_error_sleep_time": "0",
    "smtpd_client_connection_count_limit": "0",
}

# Debian's master.cf without chroot (which needs files copied into the queue directory) and without pipes.
_MASTER_CF: Final = """\
postlog   unix-dgram n - n - 1 postlogd
pickup    unix n - n 60    1 pickup
cleanup   unix n - n -     0 cleanup
qmgr      unix n - n 300   1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n -     - trivial-rewrite
bounce    unix - - n -     0 bounce
defer     unix - - n -     0 bounce
trace     unix - - n -     0 bounce
verify    unix - - n -     1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n -     - proxymap
proxywrite unix - - n -    1 proxymap
smtp      unix - - n -     - smtp
relay     unix - - n -     - smtp
showq     unix n - n -     - showq
error     unix - - n -     - error
retry     unix - - n -     - error
discard   unix - - n -     - discard
local     unix - n n -     - local
virtual   unix - n n -     - virtual
lmtp      unix - - n -     - lmtp
anvil     unix - - n -     1 anvil
scache    unix - - n -     1 scache
"""


def write_configuration(directory: Path, main: Mapping[str, str], services: Sequence[str]) -> None:
    """Make the directories and files of a private Postfix: etc, spool, data and log/mail.log below `directory`.

    `main` adds to main.cf or replaces what stands there; `services` are added to master.cf. A configuration that is
    there already is overwritten, a queue is kept.
    """
    installed = _installed_parameters()
    owner = pwd.getpwnam(installed["mail_owner"])
    for place in (directory, directory / "etc", directory / "spool", directory / "log"):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
    data = directory / "data"
    data.mkdir(exist_ok=True)
    data.chmod(0o700)
    os.chown(data, owner.pw_uid, owner.pw_gid)
    _check_enterable(directory, owner)

    for name in ("dynamicmaps.cf", "postfix-files"):
        original = Path(installed["meta_directory"]) / name
        if original.exists():
            shutil.copy(original, directory / "etc" / name)
    parameters = {
        # Postfix compares where its programs are with what is written here.
        **{name: installed[name] for name in ("command_directory", "daemon_directory", "mail_owner", "setgid_group")},
        "queue_directory": str(directory / "spool"),
        "data_directory": str(data),
        "maillog_file": str(directory / "log" / "mail.log"),
        "maillog_file_prefixes": str(directory / "log"),
        **_MAIN_CF,
        **main,
    }
    main_cf = "".join(f"{name} = {value}\n" for name, value in parameters.items())
    (directory / "etc" / "main.cf").write_text(main_cf)
    master_cf = "".join(entry.rstrip("\n") + "\n" for entry in (_MASTER_CF, *services))
    (directory / "etc" / "master.cf").write_text(master_cf)


def free_loopback_port() -> int:
    """Return a TCP port that nothing on 127.0.0.1 listens on now.

    As long as this process runs, it is given to nobody else, here or in another process that calls this.
    """
    while True:
        if not _own_ports:
            _own_ports.extend(_claim_block())
        port = _own_ports.pop()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def _claim_block() -> list[int]:
    """Return the ports of a block, in random order, that no other process has claimed."""
    blocks = [_PORTS[n : n + _BLOCK] for n in range(0, len(_PORTS), _BLOCK)]
    for block in random.sample(blocks, len(blocks)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim, contextlib.suppress(OSError):
            # A name in the abstract namespace: whoever binds it has it, until the process ends in whatever way.
            claim.bind(f"\0gatepost-ports-{block.start}")
            claim.detach()
            return random.sample(block, len(block))
    raise ConfigError(f"no free port on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop}: stop what holds them")


def command(name: str) -> str:
    """Return the path of one of Postfix's commands; ConfigError if it is not installed."""
    found = shutil.which(name, path=_SEARCH_PATH)
    if found is None:
        raise ConfigError(f"{name} is not installed: install Postfix (Debian: apt install postfix)")
    return found


def _installed_parameters() -> dict[str, str]:
    """Return where this host's Postfix lives and as whom it runs."""
    names = ("command_directory", "daemon_directory", "mail_owner", "setgid_group", "meta_directory")
    asked = subprocess.run([command("postconf"), "-x", *names], capture_output=True, text=True, check=False)
    if asked.returncode != 0:  # installed but never configured: no main.cf
        asked = subprocess.run([command("postconf"), "-dx", *names], capture_output=True, text=True, check=True)
    return dict(line.split(" = ", 1) for line in asked.stdout.splitlines())


def _check_enterable(directory: Path, owner: pwd.struct_passwd) -> None:
    for place in (directory, *directory.parents):
        facts = place.stat()
        if facts.st_uid == owner.pw_uid:
            needed = stat.S_IXUSR
        elif facts.st_gid == owner.pw_gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not facts.st_mode & needed:
            raise ConfigError(f"user {owner.pw_name} cannot enter {place}: chmod o+x it, or choose another", directory)
