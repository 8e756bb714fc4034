"""Whether each plugin stands where it can do its work: asked at all, after what sets its options, before what signs.

Only what is certain is told. How a plugin sets options or whitelists is read off the names its hooks use.
"""

from __future__ import annotations

import inspect
import sys
from itertools import groupby
from types import CodeType
from typing import TYPE_CHECKING, Any

from gatepost.errors import ConfigError
from gatepost.hooks import HOOKS
from gatepost.ops.check.finding import Finding
from gatepost.plugin import Plugin
from gatepost.verdict import Deny, DenySoft

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gatepost.configuration.loader import LoadedPlugin, Usage

_ORDER = {name: number for number, name in enumerate(HOOKS)}

_EDITS = frozenset(
    {"add_header", "insert_header", "change_header", "delete_header", "replace_body", "append_to_body", "replace_part"}
)
"""Methods of Message that can break a signature."""

_AFTERWARDS = frozenset({"deny", "ok", "disconnect", "reset_transaction", "queue_post"})
"""Hooks that come after others, for whose options no plugin stands too late."""


def broken_signatures(plugins: Sequence[LoadedPlugin]) -> list[ConfigError]:
    """Return an error for each plugin that may edit a message which one before it has signed."""
    errors = []
    signer: LoadedPlugin | None = None
    for loaded in plugins:
        if loaded.plugin.options().mode != "enforce" or "data_post" not in loaded.hooks:
            continue
        if loaded.plugin.signs:
            signer = signer or loaded
        elif signer and not (loaded.plugin.scanner and not _edits(loaded)):
            problem = (
                f"{loaded.name} may edit the message after {signer.name}{_line(signer)} has signed it, which breaks "
                f"the signature: put it before {signer.name} (or, if it only reads, scanner = True into its class)"
            )
            errors.append(ConfigError(problem, *loaded.place))
    return errors


def disturbed_signatures(plugins: Sequence[LoadedPlugin]) -> Iterator[Finding]:
    """Warn of plugins that check signatures (`Plugin.verifies`) behind one that may break them by its edits."""
    asked = [loaded for loaded in plugins if "data_post" in loaded.hooks and _mode(loaded) != "off"]
    editors: list[LoadedPlugin] = []
    for is_scanner, neighbours in groupby(asked, key=lambda loaded: loaded.plugin.scanner):
        # Scanners that stand next to each other all see the message as it is before them.
        together = list(neighbours)
        for block in [together] if is_scanner else [[loaded] for loaded in together]:
            for loaded in block if editors else ():
                if loaded.plugin.verifies:
                    names = ", ".join(other.name + _line(other) for other in editors)
                    problem = f"signatures that {loaded.name} checks may be broken by edits of {names}: put it before"
                    yield Finding.warning(problem, loaded.place)
            editors += [loaded for loaded in block if _mode(loaded) == "enforce" and _edits(loaded)]


def missing_results(plugins: Sequence[LoadedPlugin]) -> list[ConfigError]:
    """Return an error for each plugin that stands before one whose results it reads (`Plugin.after`)."""
    errors = []
    for place, loaded in enumerate(plugins):
        for other in plugins[place + 1 :]:
            shared = set(other.hooks) & set(loaded.hooks) - _AFTERWARDS
            if shared and other.name in loaded.plugin.after and "off" not in {_mode(loaded), _mode(other)}:
                problem = f"{loaded.name} reads what {other.name}{_line(other)} finds: put it behind {other.name}"
                errors.append(ConfigError(problem, *loaded.place))
    return errors


def absent_results(plugins: Sequence[LoadedPlugin]) -> Iterator[Finding]:
    """Tell of plugins that read what others find (`Plugin.after`), where these are not loaded.

    A warning if none is, or one of those without which it does nothing (`Plugin.needs`).
    """
    names = {loaded.name for loaded in plugins}
    for loaded in plugins:
        absent = [name for name in loaded.plugin.after if name not in names]
        if not absent or _mode(loaded) == "off":
            continue
        problem = f"{loaded.name} reads what {', '.join(absent)} would find, and nobody of that name is loaded"
        is_idle = len(absent) == len(loaded.plugin.after) or not set(absent).isdisjoint(loaded.plugin.needs)
        tell = Finding.warning if is_idle else Finding.note
        yield tell(problem, loaded.place)


def without_hooks(plugins: Sequence[LoadedPlugin]) -> Iterator[Finding]:
    """Warn of plugins that could never be asked, whatever else is loaded."""
    for loaded in plugins:
        if not loaded.hooks:
            yield Finding.warning(f"{loaded.name} takes part in no hook: take it out, or give it one", loaded.place)


def unreachable(plugins: Sequence[LoadedPlugin], usage: Usage, *, edge: bool = False) -> Iterator[Finding]:
    """Warn of plugins with hooks that are never asked; `plugins` must be all of them, `edge` tells of the edge door."""
    switched_on = {
        name
        for _, overrides in usage.overrides
        for name, values in overrides.values.items()
        if values.get("mode", "off") != "off"
    }
    for loaded in plugins:
        mode = loaded.plugin.options().mode
        setters = [other for other in plugins if other is not loaded and _uses(other, "override")]
        if not loaded.hooks:
            continue  # `without_hooks` says so.
        if mode == "off" and not setters:
            problem = f"{loaded.name} is off, and no plugin is loaded that could switch it on: take it out, or set mode"
            yield Finding.warning(problem, loaded.place)
        elif mode == "off" and loaded.name not in switched_on and all(_uses(one, "parse_overrides") for one in setters):
            problem = f"{loaded.name} is off, and no line of {' or '.join(one.name for one in setters)} switches it on"
            yield Finding.note(problem, loaded.place)
        elif not edge and all(HOOKS[hook].door == "edge" for hook in loaded.hooks):
            problem = f"{loaded.name} only takes part in hooks of the edge door: set edge = true in [milter]"
            yield Finding.warning(problem, loaded.place)
        elif not edge and set(loaded.hooks) == {"deny"} and not any(_refuses(other) for other in plugins):
            problem = f"{loaded.name} only acts on refusals, and no plugin is loaded that could refuse anything"
            yield Finding.warning(problem, loaded.place)


def late_setters(plugins: Sequence[LoadedPlugin], usage: Usage) -> Iterator[Finding]:
    """Warn of plugins that set options of others which have been asked by then."""
    set_by: dict[str, set[str]] = {}
    for name, overrides in usage.overrides:
        set_by.setdefault(name, set()).update(overrides.values)
    for place, setter in enumerate(plugins):
        hooks = _hooks_using(setter, "override")
        for name in sorted(set_by.get(setter.name, ())):
            other = next((one for one in plugins if one.name == name and one is not setter), None)
            if other is None or not hooks:
                continue
            first = min(_ORDER[hook] for hook in hooks)
            if all(_ORDER[hook] < first for hook in other.hooks):
                yield Finding.warning(
                    f"{setter.name} sets options of {name} at {_first(hooks)}, when all of its hooks are over "
                    f"({', '.join(other.hooks)}): they have no effect",
                    setter.place,
                )
            elif (late := hooks & set(other.hooks)) and other in plugins[:place]:
                yield Finding.warning(
                    f"{setter.name} sets options of {name}{_line(other)}, which is asked before it at "
                    f"{_first(late)}: put {setter.name} before {name}",
                    setter.place,
                )


def late_whitelists(plugins: Sequence[LoadedPlugin]) -> Iterator[Finding]:
    """Warn of plugins that exempt from checks which have been made by then."""
    for place, whitelist in enumerate(plugins):
        hooks = _hooks_using(whitelist, "whitelist")
        before = [
            other
            for other in plugins[:place]
            if other.plugin.options().skip_whitelisted and hooks & set(other.hooks) - _AFTERWARDS
        ]
        if before:
            names = ", ".join(other.name + _line(other) for other in before)
            problem = f"{whitelist.name} exempts from plugins that are asked before it: put it before {names}"
            yield Finding.warning(problem, whitelist.place)


def _mode(loaded: LoadedPlugin) -> str:
    mode: str = loaded.plugin.options().mode
    return mode


def _edits(loaded: LoadedPlugin) -> bool:
    """Return True if the plugin's file uses any method that edits a message."""
    module = sys.modules[type(loaded.plugin).__module__]
    functions = [*vars(module).values(), *vars(type(loaded.plugin)).values()]
    return any(not _EDITS.isdisjoint(_names(function)) for function in functions)


def _refuses(loaded: LoadedPlugin) -> bool:
    return any({Deny, DenySoft} & HOOKS[hook].verdicts for hook in loaded.hooks)


def _hooks_using(loaded: LoadedPlugin, name: str) -> set[str]:
    """Return the hooks that call `.NAME(...)`; all of them, if another method of the plugin does."""
    direct = {hook for hook in loaded.hooks if name in _names(getattr(type(loaded.plugin), hook))}
    return direct or (set(loaded.hooks) if _uses(loaded, name) else set())


def _uses(loaded: LoadedPlugin, name: str) -> bool:
    methods = inspect.getmembers(type(loaded.plugin), inspect.isfunction)
    return any(name in _names(method) for own, method in methods if not hasattr(Plugin, own))


def _names(function: Any) -> set[str]:
    """Return the names of attributes and globals that a function uses, also inside of functions within it."""
    code = getattr(function, "__code__", None)
    return set(_names_in(code)) if isinstance(code, CodeType) else set()


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _first(hooks: set[str]) -> str:
    return min(hooks, key=_ORDER.__getitem__)


def _line(loaded: LoadedPlugin) -> str:
    return f" (line {loaded.place[1]})" if loaded.place[1] else ""
