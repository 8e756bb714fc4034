"""A real rspamd for tests: a private one on a free loopback port and a UNIX socket, in a directory of its own.

    with Rspamd() as rspamd:
        ...  # server = rspamd.server, or rspamd.socket

It has no rules but GTUBE's, and those that do what the message under test says: `X-Reply` is JSON for the milter block
of the answer, `X-Action: soft reject; Come back later` is the action and the text for the client. With `X-Echo` the
answer tells in a field `X-Told` what rspamd was told of the envelope. So it needs neither Redis nor DNS.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 60.0
"""For a host that is badly overloaded."""

STOP_S = 10.0

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""In a body: `reject`."""

GTUBE_ADD_HEADER = b"Y" + GTUBE[1:]
GTUBE_REWRITE_SUBJECT = b"Z" + GTUBE[1:]

MAX_MESSAGE_BYTES = 8 << 20

_CONFIGURATION = """
options {{
  pidfile = "{directory}/rspamd.pid";
  filters = "";
  cache_file = "{directory}/symbols.cache";
  dynamic_conf = "{directory}/dynamic";
  hs_cache_dir = "{directory}/";
  disable_hyperscan = true;
  tempdir = "{directory}";
  control_socket = "{directory}/control.sock mode=0600";
  url_tld = "{directory}/tld";
  enable_test_patterns = true;
  gtube_patterns = "all";
  local_addrs = [];
  max_message = {max_message};
  dns {{ nameserver = ["127.0.0.1:1"]; }}
}}
logging {{ type = "file"; filename = "{directory}/log"; level = "info"; }}
lua = "{directory}/rules.lua";
actions {{ reject = 15; "rewrite subject" = 8; add_header = 6; greylist = 4; subject = "[SPAM] %s";
           quarantine = 1000; discard = 2000; "hold my beer" = 3000; }}
worker "normal" {{
  bind_socket = "127.0.0.1:{port}";
  bind_socket = "{directory}/normal.sock mode=0666";
  count = 1;
}}
"""

_RULES = """
rspamd_config:register_symbol{
  name = "POINTS", type = "normal", score = 1.0,
  callback = function(task)
    local points = task:get_header("X-Points")
    return points ~= nil, tonumber(points)
  end
}
rspamd_config:register_symbol{
  name = "TEST_REPLY", type = "postfilter", score = 0.0,
  callback = function(task)
    local reply = task:get_header("X-Reply")
    if reply then
      local parser = require("ucl").parser()
      parser:parse_string(reply)
      task:set_milter_reply(parser:get_object())
    end
    local action = task:get_header("X-Action")
    if action then
      local what, text = action:match("^(.-);%s*(.*)$")
      task:set_pre_result(what or action, text or "")
    end
    if task:get_header("X-Echo") then
      local ucl = require("ucl")
      local told = { helo = task:get_helo(), hostname = task:get_hostname(), user = task:get_user(),
                     ip = tostring(task:get_ip()), rcpt = {} }
      for _, name in ipairs{"Queue-Id", "Deliver-To", "MTA-Name", "MTA-Tag", "Settings-ID", "TLS-Version", "TLS-Cipher",
                            "Password", "User-Agent"} do
        local value = task:get_request_header(name)
        told[name] = value and tostring(value)
      end
      local from = task:get_from("smtp")
      told.from = from and from[1] and from[1].addr
      for _, rcpt in ipairs(task:get_recipients("smtp") or {}) do table.insert(told.rcpt, rcpt.addr) end
      told.size = task:get_size()
      task:set_milter_reply{add_headers = {["X-Told"] = ucl.to_format(told, "json-compact")}}
    end
    return false
  end
}
"""


class Rspamd:
    """One rspamd, from `with` until its end; it may be stopped, started and paused in between."""

    def __init__(self) -> None:
        self.port = 0
        self.server = ""
        self.socket = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path

    def __enter__(self) -> Self:
        if shutil.which("rspamd") is None:
            pytest.skip("rspamd is not installed")
        with contextlib.ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-rspamd-")))
            # User postfix's daemons find the socket, too.
            self._directory.chmod(0o755)
            self.socket = f"unix:{self._directory}/normal.sock"
            (self._directory / "rules.lua").write_text(_RULES)
            # The whole list takes ten seconds to compile.
            (self._directory / "tld").write_text("com\nexample\nnet\norg\n")
            stack.callback(self.stop)
            self._start_somewhere()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_somewhere(self) -> None:
        # The port is free when we look, and may be taken when rspamd does: then another one.
        for _ in range(4):
            self._choose_port()
            with contextlib.suppress(AssertionError):
                self.start()
                return
            self.stop()
        raise AssertionError(f"rspamd does not start:\n{self.log()}")

    def start(self) -> None:
        """Start, and return when it answers."""
        # -i: as root, which it is in a container, it starts only when told that this is meant.
        command = ["rspamd", "-f", "-i", "-c", str(self._directory / "rspamd.conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, f"rspamd has ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"rspamd does not answer:\n{self.log()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it, paused or not, with all its workers."""
        process, self._process = self._process, None
        if process is None:
            return
        pids = [process.pid, *_children(process.pid)]
        _signal(pids, signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _signal(pids, signal.SIGKILL)
            process.wait()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop all its processes where they are, as if the host hung: it takes connections and says nothing."""
        assert self._process is not None
        pids = [self._process.pid, *_children(self._process.pid)]
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    def worker(self) -> int:
        """Return the process that scans."""
        assert self._process is not None
        titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in _children(self._process.pid)}
        return next(pid for pid, title in titles.items() if b"normal process" in title)

    def scans(self) -> int:
        """Return how many messages it has judged."""
        return self.log().count("rspamd_task_write_log")

    def scans_of(self, message_id: str) -> int:
        """Return how often it has judged the message with that Message-ID: no other test's message is among them."""
        lines = self.log().splitlines()
        return sum("rspamd_task_write_log" in line and f"id: {message_id}," in line for line in lines)

    def log(self) -> str:
        """Return its log."""
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _choose_port(self) -> None:
        self.port = free_loopback_port()
        self.server = f"127.0.0.1:{self.port}"
        values = {"directory": self._directory, "port": self.port, "max_message": MAX_MESSAGE_BYTES}
        (self._directory / "rspamd.conf").write_text(_CONFIGURATION.format(**values))

    def _answers(self) -> bool:
        try:
            for family, address in (
                (socket.AF_UNIX, self.socket.removeprefix("unix:")),
                (socket.AF_INET, ("127.0.0.1", self.port)),
            ):
                with socket.socket(family) as connection:
                    connection.settimeout(2.0)
                    connection.connect(address)
                    connection.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
                    if b"pong" not in connection.makefile("rb").read():
                        return False
        except OSError:
            return False
        return True


def mail(*fields: bytes, body: bytes = b"text\r\n", reply: object = None) -> bytes:
    """Return a message with these fields; `reply` is what rspamd is to answer in its milter block."""
    header = [b"From: a@example.net", b"Subject: hello", *fields]
    if reply is not None:
        header.append(b"X-Reply: " + json.dumps(reply).encode())
    return b"\r\n".join(header) + b"\r\n\r\n" + body


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
