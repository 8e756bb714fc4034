"""addsig: a message that is made to cost time is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatepost.testing import run_hook

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("forms", "edits"), [(8, True), (9, False), (400, False)])
async def test_a_text_in_more_than_eight_forms_is_left_unsigned(tmp_path: Path, forms: int, edits: bool) -> None:
    (tmp_path / "example.org").write_text("Example Ltd\n")
    content = b"Content-Type: multipart/alternative; boundary=x\r\n\r\n" + b"--x\r\n\r\nHi\r\n" * forms + b"--x--\r\n"

    result = await run_hook(
        "addsig", "data_post", options={"directory": str(tmp_path)}, sender="anna@example.org", content=content
    )

    body = bytes(result.message.body)
    assert body.count(b"Example Ltd") == (forms if edits else 0)
    assert bool(result.message.edits) is edits
