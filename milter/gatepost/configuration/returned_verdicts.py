"""Finds, before a plugin runs, the verdicts that its hooks return and the hook does not allow.

Reads the source: `return Deny(...)`, also inside a conditional expression. What it cannot see (a verdict computed
elsewhere) is caught when the hook answers it.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.verdict import Declined, Verdict

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from gatepost.hooks import Hook


def allowed_names(hook: Hook) -> str:
    """Return the verdicts that a hook allows, for people."""
    names = sorted(verdict.__name__ for verdict in hook.verdicts - {Declined})
    return "it answers nothing" if not names else f"it may answer {', '.join(names)} or nothing"


def forbidden_verdicts(method: types.FunctionType, hook: Hook) -> Iterator[tuple[int, str, str]]:
    """Yield (line, verdict's name, what is allowed) for each return statement that answers what `hook` may not."""
    for statement in _returns(_definition(method)):
        for expression in _results(statement.value):
            name = expression.func if isinstance(expression, ast.Call) else expression
            verdict = method.__globals__.get(name.id) if isinstance(name, ast.Name) else None
            if isinstance(verdict, type) and issubclass(verdict, Verdict) and verdict not in hook.verdicts:
                yield expression.lineno, verdict.__name__, allowed_names(hook)


def _definition(method: types.FunctionType) -> ast.AST:
    """Return the `def` of a method; an empty node where there is none to read (a lambda, an interactive session)."""
    code = method.__code__
    try:
        # The whole file: a method alone cannot be cut out, comments and strings in it may stand further to the left.
        tree = ast.parse(Path(code.co_filename).read_bytes())
    except (OSError, SyntaxError):
        return ast.Pass()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Python counts a function from its first decorator.
            first = min(part.lineno for part in (node, *node.decorator_list))
            if (node.name, first) == (code.co_name, code.co_firstlineno):
                return node
    return ast.Pass()


def _returns(node: ast.AST) -> Iterator[ast.Return]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield from _returns(child)


def _results(value: ast.expr | None) -> Iterator[ast.expr]:
    match value:
        case ast.IfExp(body=body, orelse=otherwise):
            yield from _results(body)
            yield from _results(otherwise)
        case ast.expr():
            yield value
        case None:
            pass
