"""The source has floors, told in docs/how-it-works.md: what a module imports is on its own floor or below it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[1] / "milter" / "gatepost"
VOCABULARY = 1
FLOORS = {
    "message": VOCABULARY,
    "smtp": 2,
    "services": 3,
    "plugin": 4,
    "configuration": 4,
    "pipeline": 4,
    "doors": 5,
    "ops": 6,
}
"""By the first name below `gatepost`; modules that are not here are vocabulary."""
ON_TOP = {"__init__", "testing"}
"""What authors import: these may import everything."""


def test_imports_point_down() -> None:
    upwards = [
        f"{module}: imports {imported}"
        for path in SOURCE.rglob("*.py")
        if (module := path.relative_to(SOURCE).with_suffix("")).parts[0] not in ON_TOP
        for imported in imported_at_run_time(ast.parse(path.read_text()))
        if floor(imported.split(".")[1]) > floor(module.parts[0])
    ]
    assert upwards == []


def test_every_folder_is_on_a_floor() -> None:
    folders = {path.parent.relative_to(SOURCE).parts[0] for path in SOURCE.glob("*/__init__.py")}
    assert folders - ON_TOP <= set(FLOORS)


def test_modules_that_the_text_names_are_there() -> None:
    absent = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"`(gatepost(?:\.\w+)+)`", path.read_text())
        if not (module := SOURCE.parent / name.replace(".", "/")).is_dir() and not module.with_suffix(".py").is_file()
    ]
    assert absent == []


def test_imports_for_types_are_not_imports() -> None:
    code = "from gatepost.a import b\nif TYPE_CHECKING:\n    import gatepost.c\nelse:\n    import gatepost.d\n"
    assert list(imported_at_run_time(ast.parse(code))) == ["gatepost.a", "gatepost.d"]


def floor(name: str) -> int:
    return FLOORS.get(name, VOCABULARY)


def imported_at_run_time(node: ast.AST) -> Iterator[str]:
    """Yield every module of gatepost that running this code imports, also inside functions."""
    match node:
        case ast.ImportFrom(module=str(module)) if module.startswith("gatepost."):
            yield module
        case ast.ImportFrom(module="gatepost", names=names):
            yield from (f"gatepost.{alias.name}" for alias in names)
        case ast.Import(names=names):
            yield from (alias.name for alias in names if alias.name.startswith("gatepost."))
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
            for statement in orelse:
                yield from imported_at_run_time(statement)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imported_at_run_time(child)
