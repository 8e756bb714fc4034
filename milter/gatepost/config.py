"""The configuration file: what every key means, its default, and one clear line for each thing wrong in it.

Plugins' own options are checked by the loader, which knows the plugins; here they are only found.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gatepost.endpoint import Endpoint
from gatepost.errors import ConfigError, ConfigErrors
from gatepost.quantity import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

DEFAULT_FILE = Path("/etc/gatepost/gatepost.toml")


_RESERVED = ("file", "plugins", "lines")
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


def _no_edge_yet(edge: bool) -> bool:
    if edge:
        raise ValueError("the edge door is not part of this version: set edge = false")
    return edge


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
    """`[milter]`: the socket at which Postfix reaches the content door."""

    socket: Annotated[str, AfterValidator(_endpoint)] = "unix:/var/spool/postfix/gatepost/milter.sock"
    edge: Annotated[bool, AfterValidator(_no_edge_yet)] = False
    edge_timeout: Duration = 20.0


class StoreSection(Section):
    """`[store]`: what plugins remember between sessions."""

    url: Annotated[str, AfterValidator(_store_url)] = "sqlite:/var/lib/gatepost/gatepost.db"


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
    mime_limit: Size = 8 << 20
    """The largest message whose MIME structure is parsed."""


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """One `[[plugin]]` table, options unchecked; `line` is where it begins, `lines` where each key stands."""

    name: str
    options: dict[str, Any]
    line: int | None = None
    lines: dict[str, int] | None = None


class Config(Section):
    """The whole file."""

    proxy: ProxySection = ProxySection()
    milter: MilterSection = MilterSection()
    store: StoreSection = StoreSection()
    hooks: HooksSection = HooksSection()
    content: ContentSection = ContentSection()
    plugin: tuple[dict[str, Any], ...] = ()
    file: Path | None = Field(default=None, exclude=True)
    plugins: tuple[PluginEntry, ...] = Field(default=(), exclude=True)
    """The `[[plugin]]` tables in order, with their places."""

    lines: dict[str, int] = Field(default={}, exclude=True)
    """Where each key stands: `{"store.url": 12}`."""

    def place(self, key: str) -> tuple[Path | None, int | None]:
        """Return file and line of `SECTION.KEY`, for a ConfigError; None for what is not known."""
        return self.file, self.lines.get(key)

    @property
    def base(self) -> Path:
        """The directory to which relative paths in the file refer."""
        return self.file.parent if self.file else Path("/etc/gatepost")


def load_config(file: Path | None = None) -> Config:
    """Read `file`; without one, /etc/gatepost/gatepost.toml, and where that is missing the built-in default.

    Raises ConfigError or ConfigErrors, each with file and line.
    """
    given, file = file, file or DEFAULT_FILE
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError as error:
        if given is None:
            return Config()
        raise ConfigError(f"cannot read the configuration: {error.strerror}", file) from error
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}", file) from error
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text: save the file as UTF-8", file) from error
    return parse_config(text, file)


def parse_config(text: str, file: Path) -> Config:
    """Check a configuration's text; raises as `load_config` does."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _toml_error(error, text, file) from error
    places = TomlPlaces(text)
    errors: list[ConfigError] = []
    for reserved in _RESERVED:
        if reserved in data:
            errors.append(_unknown_key(reserved, Config, file, places.line((reserved,))))
            del data[reserved]
    entries = _plugin_entries(data, places, file, errors)
    try:
        found = {"file": file.absolute(), "plugins": entries, "lines": places.dotted()}
        config = Config.model_validate(data | found)
    except ValidationError as invalid:
        errors += [_explain(error, file, places) for error in invalid.errors()]
    if errors:
        errors.sort(key=lambda error: error.line or 0)
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
    return config


def _plugin_entries(
    data: dict[str, Any], places: TomlPlaces, file: Path, errors: list[ConfigError]
) -> tuple[PluginEntry, ...]:
    tables = data.get("plugin", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        errors.append(
            ConfigError("write each plugin as a table of its own, [[plugin]]", file, places.line(("plugin",)))
        )
        data["plugin"] = []
        return ()
    entries: dict[str, PluginEntry] = {}
    for i, table in enumerate(tables):
        line = places.line(("plugin", i))
        options = dict(table)
        name = options.pop("name", None)
        if not isinstance(name, str):
            errors.append(ConfigError('a [[plugin]] needs a name, such as name = "greylist"', file, line))
        elif not name.isidentifier():
            problem = f"{name!r} is no plugin's name: it is that of its file, letters, digits and underscores"
            errors.append(ConfigError(problem, file, places.line(("plugin", i, "name"))))
        elif name in entries:
            errors.append(
                ConfigError(f"plugin {name} stands here twice, first in line {entries[name].line}", file, line)
            )
        else:
            lines = {key: places.line(("plugin", i, key)) or 0 for key in table}
            entries[name] = PluginEntry(name, options, line, lines)
    return tuple(entries.values())


def _toml_error(error: tomllib.TOMLDecodeError, text: str, file: Path) -> ConfigError:
    message, _, place = str(error).partition(" (at ")
    found = re.match(r"line (\d+)", place)
    return ConfigError(f"not TOML: {message}", file, int(found[1]) if found else text.count("\n") + 1)


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
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": there are {', '.join(sorted(names))}" if names else ""


def explain(error: ErrorDetails) -> str:
    """Put one pydantic error into a sentence, with the value that was given."""
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if error["type"] in {"value_error", "missing"}:
        return reason
    return f"{reason} (given: {error['input']!r})"


class TomlPlaces:
    """Where tables and keys stand in a TOML text; tomllib does not tell.

    Finds `[table]`, `[[table]]` and `key =` at the beginning of lines, which is how people write; a key inside an
    inline table has the line of the innermost table or key that was found.
    """

    _HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?\Z")
    _KEY = re.compile(r"\s*(\"[^\"]+\"|'[^']+'|[A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=")

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str | int, ...], int] = {}
        table: tuple[str | int, ...] = ()
        counts: dict[str, int] = {}
        # Not splitlines: to TOML and to editors only LF ends a line.
        for number, line in enumerate(text.split("\n"), 1):
            if header := self._HEADER.match(line):
                name = header[2]
                table = tuple(part.strip(" \"'") for part in name.split("."))
                if header[1] == "[[":
                    self._lines.setdefault(table, number)
                    table = (*table, counts.get(name, 0))
                    counts[name] = counts.get(name, 0) + 1
                self._lines.setdefault(table, number)
            elif key := self._KEY.match(line):
                path = (part.strip(" \"'") for part in key[1].split("."))
                self._lines.setdefault((*table, *path), number)

    def dotted(self) -> dict[str, int]:
        """Return the line of every table and key, by its name with dots."""
        return {".".join(map(str, path)): line for path, line in self._lines.items()}

    def line(self, path: Sequence[str | int]) -> int | None:
        """Return the 1-based line of the table or key, of the innermost part of it that was found, or None."""
        for length in range(len(path), 0, -1):
            if (found := self._lines.get(tuple(path[:length]))) is not None:
                return found
        return None
