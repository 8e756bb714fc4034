"""The configuration file: what every key means, its default, and one clear line for each thing wrong in it.

Plugins' own options are checked by the loader, which knows the plugins; here they are only found.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gatepost.configuration.toml_text import TomlText, read_toml
from gatepost.endpoint import Endpoint
from gatepost.errors import ConfigError, in_order, raise_errors
from gatepost.nameserver import Nameserver
from gatepost.quantity import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ErrorDetails

    from gatepost.configuration.toml_text import TomlPlaces

DEFAULT_FILE = Path("/etc/gatepost/gatepost.toml")


_SHOWN_CHARACTERS = 100
"""How much of a wrong value is shown; it may be the whole of a list that is elsewhere."""

_RESERVED = ("file", "plugins", "lines", "left_out")
"""Fields of Config that are no keys of the file."""


def _endpoint(text: str) -> str:
    Endpoint.parse(text)
    return text


def _tcp_endpoint(text: str) -> str:
    if Endpoint.parse(text).path is not None:
        raise ValueError(
            "the inner smtpd must be reached by TCP: the milter on it finds its transaction by our port number"
        )
    return text


def _nameserver(text: str) -> str:
    Nameserver.parse(text)
    return text


def _store_url(url: str) -> str:
    if not re.match(r"sqlite:(?:/|:memory:\Z)|rediss?:", url):
        raise ValueError(f'{url!r} is not understood: write "sqlite:/...", with the path in full')
    if not url.startswith("sqlite:"):
        raise ValueError('Redis comes in a later version: use "sqlite:/var/lib/gatepost/gatepost.db"')
    return url


class Section(BaseModel):
    """A table of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProxySection(Section):
    """`[proxy]`: between the public smtpd and the inner one."""

    listen: Annotated[str, AfterValidator(_endpoint)] = "127.0.0.1:10025"
    """Where Postfix's smtpd_proxy_filter connects: `HOST:PORT` or `unix:/PATH`."""
    inner: Annotated[str, AfterValidator(_tcp_endpoint)] = "127.0.0.1:10026"
    """The inner smtpd, `HOST:PORT`."""
    max_sessions: int = Field(default=500, ge=1)
    """Connections served at once; more get 421 4.3.2 at MAIL."""
    front_timeout: Annotated[Duration, Field(ge=20)] = 100.0
    """Postfix's smtpd_proxy_timeout, as set there: every reply is given 10 s before it is over. At least 20 s."""
    session_idle: Duration = 60.0
    """How long a client's session is kept after its last message."""
    bare_newline: Literal["reject", "normalize"] = "reject"
    """What happens to a message with a CR or LF that is not part of a CRLF: 521, or made a CRLF."""


class MilterSection(Section):
    """`[milter]`: the socket at which Postfix reaches the content door, and the edge door."""

    socket: Annotated[str, AfterValidator(_endpoint)] = "unix:/var/spool/postfix/gatepost/milter.sock"
    edge: bool = False
    """Whether the public smtpd has our milter too, which hears of a client from its first moment."""
    edge_timeout: Annotated[Duration, Field(ge=1)] = 20.0
    """How long the hooks of the edge door may take for one reply; `gatepost postfix apply` has Postfix wait longer.

    At least 1 s: with none, every client would hear 451.
    """


class StoreSection(Section):
    """`[store]`: what plugins remember between sessions."""

    url: Annotated[str, AfterValidator(_store_url)] = "sqlite:/var/lib/gatepost/gatepost.db"


class DnsSection(Section):
    """`[dns]`: the name servers that plugins ask, and how much they may ask."""

    nameservers: tuple[Annotated[str, AfterValidator(_nameserver)], ...] = ()
    """`ADDRESS` or `ADDRESS:PORT` of recursive name servers, the preferred first; empty means those of
    /etc/resolv.conf."""
    timeout: Annotated[Duration, Field(ge=0.1, le=60)] = 5.0
    """How long one question may take, with all its repetitions; then it is unavailable."""
    cache_size: int = Field(default=10_000, ge=0)
    """Answers kept, each for as long as its name server allows; a large one counts as several. 0 keeps none."""
    max_queries_per_hook: int = Field(default=100, ge=1)
    """Questions that one hook call of one plugin may put to name servers."""
    max_queries_per_message: int = Field(default=400, ge=1)
    """Questions for one message, of all hooks of all plugins together."""


class HooksSection(Section):
    """`[hooks]`: where the administrator's own plugins are; they win over bundled ones of the same name."""

    directory: Path | None = None
    """None means /etc/gatepost/hooks, which may then be missing."""


class ContentSection(Section):
    """`[content]`: messages with several recipients, and MIME."""

    disagree: Literal["defer-rest", "lenient"] = "defer-rest"
    """Recipients whose options differ: sent apart by the client (452), or all accepted when one would be."""
    defer_limit: int = Field(default=8, ge=0)
    """Disagreeing recipients deferred per transaction; the others join as under `lenient`. Keep it below the front's
    smtpd_hard_error_limit (20), which counts them."""
    mime_limit: Size = 10 << 20
    """The largest message whose MIME structure is parsed."""


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """One `[[plugin]]` table, options unchecked; `line` is where it begins, `lines` where each key stands."""

    name: str
    options: dict[str, Any]
    line: int | None = None
    lines: dict[str, int] | None = None
    incomplete: bool = False
    """True when a line of it is not TOML: what seems to be missing may stand there."""

    def place_of(self, key: str) -> int | None:
        """Return the line of a key, of the entry where the key has none."""
        return (self.lines or {}).get(key, self.line)


class Config(Section):
    """The whole file."""

    proxy: ProxySection = ProxySection()
    milter: MilterSection = MilterSection()
    store: StoreSection = StoreSection()
    dns: DnsSection = DnsSection()
    hooks: HooksSection = HooksSection()
    content: ContentSection = ContentSection()
    plugin: tuple[dict[str, Any], ...] = ()
    file: Path | None = Field(default=None, exclude=True)
    plugins: tuple[PluginEntry, ...] = Field(default=(), exclude=True)
    """The `[[plugin]]` tables in order, with their places."""

    lines: dict[str, int] = Field(default={}, exclude=True)
    """Where each key stands: `{"store.url": 12}`."""

    left_out: frozenset[str] = Field(default=frozenset(), exclude=True)
    """Keys that have their default because what the file says is wrong: `{"store.url"}`. With `plugin` in it, not all
    `[[plugin]]` tables could be read. Empty unless it comes from `read_config`."""

    def place(self, key: str) -> tuple[Path | None, int | None]:
        """Return file and line of `SECTION.KEY`, for a ConfigError; None for what is not known."""
        return self.file, self.lines.get(key)

    def lines_of(self, plugin: str) -> dict[str, int]:
        """Return where each key of a plugin's entry stands; empty if it has none."""
        return next((entry.lines or {} for entry in self.plugins if entry.name == plugin), {})

    @property
    def base(self) -> Path:
        """The directory to which relative paths in the file refer."""
        return self.file.parent if self.file else Path("/etc/gatepost")


def load_config(file: Path | None = None) -> Config:
    """Read `file`; without one, /etc/gatepost/gatepost.toml, and where that is missing the built-in default.

    Raises ConfigError or ConfigErrors, each with file and line.
    """
    config, errors = read_config(file)
    raise_errors(errors)
    return config


def parse_config(text: str, file: Path) -> Config:
    """Check a configuration's text; raises as `load_config` does."""
    config, errors = read_text(text, file)
    raise_errors(errors)
    return config


def read_config(file: Path | None = None) -> tuple[Config, list[ConfigError]]:
    """Read as `load_config` does, but return what is right together with everything that is wrong."""
    given, file = file, (file or DEFAULT_FILE).absolute()
    try:
        content = file.read_bytes()
    except OSError as error:
        if given is None and isinstance(error, FileNotFoundError):
            return Config(), []
        return Config(), [ConfigError(f"cannot read the configuration: {error.strerror}", file)]
    try:
        return read_text(content.decode(), file)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        config, errors = read_text(content.decode(errors="replace"), file)
        return config, [ConfigError("not UTF-8 text: save the file as UTF-8", file, line), *errors]


def read_text(text: str, file: Path) -> tuple[Config, list[ConfigError]]:
    """Check a configuration's text; return what is right, and everything that is wrong in the order of the file."""
    # Editors of other systems put a byte order mark first, which is no statement.
    toml = read_toml(text.removeprefix("\ufeff"))
    data, places = toml.data, toml.places
    errors = [ConfigError(str(mistake), file, mistake.line) for mistake in toml.mistakes]
    left_out = _unread(toml)
    for reserved in _RESERVED:
        if reserved in data:
            errors.append(_unknown_key(reserved, Config, file, places.line((reserved,))))
            del data[reserved]
    entries = _plugin_entries(toml, file, errors, left_out)
    while True:
        found = {"file": file.absolute(), "plugins": entries, "lines": places.dotted(), "left_out": left_out}
        try:
            config = Config.model_validate(data | found)
        except ValidationError as invalid:
            for error in invalid.errors():
                errors.append(_explain(error, file, places))
                left_out.add(".".join(map(str, error["loc"][:2])))
                _remove(data, error["loc"])
        else:
            return config, in_order([*errors, *_collisions(config)])


def _unread(toml: TomlText) -> set[str]:
    """Return the keys that matter to others, if they may stand in lines that are not TOML."""
    if toml.has_lost_a_table:
        return {"plugin", "hooks.directory"}
    hooks = toml.places.line(("hooks",))
    return {"hooks.directory"} if hooks and toml.unread_in(hooks, toml.places.last_line(hooks)) else set()


def _remove(data: dict[str, Any], location: Sequence[str | int]) -> None:
    """Take out the key of a section, or the section that is none."""
    section, *key = location[:2]
    if key and isinstance(data[str(section)], dict):
        data[str(section)].pop(key[0], None)
    else:
        data.pop(str(section), None)


def _collisions(config: Config) -> list[ConfigError]:
    """Return an error for each address that is meant for two."""
    keys = [key for key in ("proxy.listen", "proxy.inner", "milter.socket") if key not in config.left_out]
    taken: dict[str, Endpoint] = {}
    errors = []
    for key in keys:
        section, name = key.split(".")
        endpoint = Endpoint.parse(getattr(getattr(config, section), name))
        other = next((other for other, used in taken.items() if used.collides(endpoint)), None)
        if other is None:
            taken[key] = endpoint
            continue
        problem = f"{key} is {endpoint}, and so is {other}: give each an address of its own"
        file, line = config.place(key)
        errors.append(ConfigError(problem, file, line or config.lines.get(other)))
    return errors


def _plugin_entries(
    toml: TomlText, file: Path, errors: list[ConfigError], left_out: set[str]
) -> tuple[PluginEntry, ...]:
    data, places = toml.data, toml.places
    tables = data.get("plugin", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        errors.append(
            ConfigError("write each plugin as a table of its own, [[plugin]]", file, places.line(("plugin",)))
        )
        data["plugin"] = []
        left_out.add("plugin")
        return ()
    entries: dict[str, PluginEntry] = {}
    for i, table in enumerate(tables):
        line = places.line(("plugin", i))
        incomplete = line is not None and toml.unread_in(line, places.last_line(line))
        lines = {key: places.line(("plugin", i, key)) or 0 for key in table}
        options = dict(table)
        name = options.pop("name", None)
        if isinstance(name, str) and name.isidentifier() and name not in entries:
            entries[name] = PluginEntry(name, options, line, lines, incomplete)
            continue
        problem = None
        if isinstance(name, str) and name in entries:
            problem = f"plugin {name} stands here twice, first in line {entries[name].place_of('name')}: delete one"
        elif isinstance(name, str):
            problem = f"{name!r} is no plugin's name: it is that of its file, letters, digits and underscores"
            left_out.add("plugin")
        else:
            left_out.add("plugin")
            if name is not None or not incomplete:
                problem = 'a [[plugin]] needs a name, such as name = "greylist"'
        if problem:
            errors.append(ConfigError(problem, file, lines.get("name", line)))
    return tuple(entries.values())


def _explain(error: ErrorDetails, file: Path, places: TomlPlaces) -> ConfigError:
    location = error["loc"]
    line = places.line(location)
    if error["type"] == "extra_forbidden":
        section = Config.model_fields[str(location[0])].annotation if len(location) > 1 else Config
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        return _unknown_key(str(location[-1]), section, file, line)
    if error["type"] == "model_type":
        return ConfigError(f"{location[0]} is a table: write [{location[0]}], and its keys below that", file, line)
    return ConfigError(f"{'.'.join(map(str, location))}: {explain(error)}", file, line)


def _unknown_key(key: str, section: type[BaseModel], file: Path, line: int | None) -> ConfigError:
    names = [name for name in section.model_fields if name not in _RESERVED]
    return ConfigError(f"there is no key {key!r} here{did_you_mean(key, names)}", file, line)


def did_you_mean(word: str, names: Sequence[str]) -> str:
    """Return `: did you mean NAME?` for the nearest of `names`, or a list of them where none is near."""
    if near := nearest(word, names):
        return f": did you mean {near[0]!r}?"
    return f": there are {', '.join(sorted(names))}" if names else ""


def nearest(word: str, names: Iterable[str]) -> list[str]:
    """Return the name that `word` was probably meant to be; empty if none is near."""
    return difflib.get_close_matches(word, list(names), n=1)


def explain(error: ErrorDetails) -> str:
    """Put one pydantic error into a sentence, with the value that was given."""
    reason = " ".join(error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").split())
    if error["type"] in {"value_error", "missing"}:
        return reason
    given = repr(error["input"])
    if len(given) > _SHOWN_CHARACTERS:
        given = f"{given[:_SHOWN_CHARACTERS]}..."
    if error["type"] == "tuple_type":
        # TOML has no tuples; nearly always it is the only entry, without its brackets.
        reason = f"this is a list: write [{given}]"
    if error["type"] == "ip_any_network":
        reason = _network_remedy(error["input"])
    return f"{reason} (given: {given})"


def _network_remedy(given: object) -> str:
    try:
        network = ip_network(given, strict=False)  # type: ignore[arg-type]
    except ValueError:
        return 'this is no network: write one like "192.0.2.0/24" or "2001:db8::/32", or an address'
    return f'no network begins at this address: write "{network}"'
