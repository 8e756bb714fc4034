"""One plugin's file: executed, its class found, and the class's methods checked against the table of hooks.

Each file is executed under a private module name, so that `hooks/spf.py` never shadows a library `spf`, and afresh at
every load, so that a reload sees every edit.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import types
from typing import TYPE_CHECKING, Any

from gatepost.configuration.config import did_you_mean
from gatepost.configuration.returned_verdicts import forbidden_verdicts
from gatepost.errors import ConfigError, raise_errors
from gatepost.hooks import EVENTS, HOOKS
from gatepost.plugin import Plugin

if TYPE_CHECKING:
    from pathlib import Path

_PACKAGE = "gatepost_hooks"
_generation = itertools.count(1)


def load_class(path: Path) -> type[Plugin[Any]]:
    """Execute the file and return its plugin; ConfigError if it has none. Its methods are not checked yet."""
    module = _execute(path)
    found = [
        value
        for value in dict.fromkeys(value for value in vars(module).values() if isinstance(value, type))
        if issubclass(value, Plugin) and value.__module__ == module.__name__
    ]
    leaves = [cls for cls in found if not any(other is not cls and issubclass(other, cls) for other in found)]
    if len(leaves) == 1:
        return leaves[0]
    sys.modules.pop(module.__name__, None)
    problem = f"a plugin file has one class that subclasses gatepost.Plugin; here are {len(leaves)}: write one"
    raise ConfigError(problem, path, line_of(path, leaves[-1].__name__) if leaves else 1)


def _execute(path: Path) -> types.ModuleType:
    module = types.ModuleType(f"{_PACKAGE}.g{next(_generation)}.{path.stem}")
    module.__file__ = str(path)
    # pydantic and dataclasses look annotations up in sys.modules.
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        sys.modules.pop(module.__name__, None)
        match error:
            case SyntaxError():
                raise ConfigError(f"not Python: {error.msg}", path, error.lineno) from error
            case OSError(filename=name) if name == str(path):
                raise ConfigError(f"cannot read the plugin: {error.strerror}", path) from error
            case ModuleNotFoundError():
                problem = f"cannot be loaded: {error}: install that beside gatepost, or correct the name"
                raise ConfigError(problem, path, line_in(error, path)) from error
            case Exception() | SystemExit():
                problem = f"cannot be loaded: {type(error).__name__}: {one_line(error)}"
                raise ConfigError(problem, path, line_in(error, path)) from error
        raise
    return module


def forget_module(plugin_class: type[Plugin[Any]]) -> None:
    """Let go of the module that a plugin's file was executed as, so that reloads do not pile them up."""
    name = plugin_class.__module__
    if name.startswith(_PACKAGE):
        sys.modules.pop(name, None)


def one_line(error: BaseException) -> str:
    """Return what a plugin's exception says, in one line."""
    return " ".join(str(error).split())


def line_in(error: BaseException, path: Path) -> int | None:
    """Return the last line of `path` on the way to the error; None if it never got there."""
    lines = []
    traceback = error.__traceback__
    while traceback:
        if traceback.tb_frame.f_code.co_filename == str(path):
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return lines[-1] if lines else None


def hooks_of(plugin_class: type[Plugin[Any]]) -> tuple[str, ...]:
    """Return the hooks that the class takes part in, in the table's order."""
    return tuple(name for name in HOOKS if hasattr(plugin_class, name))


def check_methods(plugin_class: type[Plugin[Any]], path: Path) -> None:
    """Raise ConfigErrors for public methods that are no hooks, wrong arguments, and verdicts that a hook forbids."""
    errors: list[ConfigError] = []
    for name, member in inspect.getmembers(plugin_class):
        if name.startswith("_") or hasattr(Plugin, name):
            continue
        if not inspect.isfunction(member):
            if name in HOOKS or name in EVENTS:
                problem = f"{name} is the name of a hook, and here it is a {type(member).__name__}: rename it"
                errors.append(ConfigError(problem, path, line_of(path, plugin_class.__name__, name)))
            continue
        line = member.__code__.co_firstlineno
        if name not in HOOKS and name not in EVENTS:
            problem = f"{name} is no hook, and a method of your own begins with an underscore"
            errors.append(ConfigError(problem + did_you_mean(name, [*HOOKS, *EVENTS]), path, line))
            continue
        wanted = HOOKS[name].arguments if name in HOOKS else ()
        try:
            inspect.signature(member).bind(None, *wanted)
        except TypeError:
            arguments = ", ".join(("self", *wanted))
            errors.append(ConfigError(f"{name} has the wrong arguments: write def {name}({arguments})", path, line))
            continue
        if name in HOOKS:
            errors += [
                ConfigError(f"the {name} hook may not answer {verdict}: {allowed}", path, line)
                for line, verdict, allowed in forbidden_verdicts(member, HOOKS[name])
            ]
    raise_errors(errors)


def line_of(path: Path, class_name: str, attribute: str | None = None) -> int | None:
    """Return the line of a class in the file, or of what it calls `attribute`; None where the file does not tell."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    found = next((node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == class_name), None)
    if found is None:
        return None
    for statement in found.body if attribute else ():
        names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and _is_stored(node)}
        if attribute in names or getattr(statement, "name", None) == attribute:
            return statement.lineno
    return found.lineno


def _is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)
