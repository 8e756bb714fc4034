"""What the benchmark compares: Postfix alone, gatepost with four sets of plugins, two of them also with the edge door.

Each is configured as an administrator would do it; only the content variant has a plugin of its own, which stands here.
"""

from __future__ import annotations

from dataclasses import dataclass

SENDER = "sender@client.example"
RECIPIENT = "hjp@example.org"

BASELINE = "baseline"

_OPTIONS_FILE = """\
10.0.0.0/8: greylist=off
127.0.0.0/8: count_denies.limit=10
example.net: greylist.black_timeout=5m
"""

_ALIASES_FILE = """\
hjp,peter.holzer@example.org: hjp@example.net (greylist.white_timeout=10d)
postmaster@,example.org: hjp@example.org
"""

# Every message asks the store about a triplet that is known, as most mail of a mail server does. black_timeout is zero,
# so that the retry that makes it known can come at once.
_COMMANDS = """
[[plugin]]
name = "client_options"
file = "{directory}/client_options"

[[plugin]]
name = "aliases"
file = "{directory}/aliases"

[[plugin]]
name = "greylist"
black_timeout = "0s"

[[plugin]]
name = "count_denies"
"""

_CONTENT = """
[[plugin]]
name = "loop"

[[plugin]]
name = "addsig"
directory = "{directory}/signatures"
"""

_READER = """
[[plugin]]
name = "bench_reader"
"""

_READER_FILE = '''\
"""bench_reader: reads every field and every byte of the body, and adds a header field."""

from gatepost import Message, Plugin, Transaction


class BenchReader(Plugin):
    def data_post(self, transaction: Transaction, message: Message) -> None:
        fields = sum(len(field.name) + len(field.value) for field in message.headers)
        body = sum(chunk.count(b"\\n") for chunk in message.body.chunks())
        message.add_header("X-Bench", f"{fields} bytes of fields, {body} lines")
'''


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing to measure; `plugins` is the end of its gatepost.toml, None where no gatepost stands in between."""

    name: str
    about: str
    target: float | None
    """The least ratio to the baseline's messages per second that is asked for; None where it asks for nothing."""
    plugins: str | None
    files: tuple[tuple[str, str], ...] = ()
    """Files beside gatepost.toml, by name; those under hooks/ are plugins."""
    edge: bool = False
    """True: the edge door stands on the front, too."""
    against: str = ""
    """The variant to compare it with as well; empty where the baseline is all there is to compare."""


_FILES = (("client_options", _OPTIONS_FILE), ("aliases", _ALIASES_FILE))

VARIANTS = (
    Variant(BASELINE, "front smtpd, inner smtpd, nothing between", None, None),
    Variant("control", "the baseline once more: how far two equal things differ in this run", None, None),
    Variant("empty", "gatepost without plugins", 1.00, ""),
    Variant("commands", "client_options, aliases, greylist, count_denies", 1.00, _COMMANDS, _FILES),
    Variant("bare-edge", "empty with the edge door, which no plugin asks for", None, "", edge=True, against="empty"),
    Variant("edge", "commands with the edge door", None, _COMMANDS, _FILES, edge=True, against="commands"),
    Variant(
        "tutorial",
        "these, loop and addsig: all of the tutorial's plugins",
        0.90,
        _COMMANDS + _CONTENT,
        (*_FILES, ("signatures/client.example", "Client Ltd, 1 Sample Street\n")),
    ),
    Variant(
        "content",
        "a plugin that reads header and body and adds a field",
        0.90,
        _READER,
        (("hooks/bench_reader.py", _READER_FILE),),
    ),
)
