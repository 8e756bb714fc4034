"""Every file of tests/dialogs, on the real daemon behind a real Postfix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.dialogue import Performance, read

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

FILES = sorted((Path(__file__).parents[1] / "dialogs").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dialogue(gate: Gate, path: Path) -> None:
    dialogue = read(path)
    performance = Performance(gate)
    gate.use(dialogue.toml, files=dialogue.files, hooks=dialogue.hooks)
    performance.run(dialogue)


def test_there_are_dialogues() -> None:
    assert len(FILES) > 10
