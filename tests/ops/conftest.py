from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.ops.doctor_rig import Site

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    # Not tmp_path: user postfix must be able to enter every directory above.
    with tempfile.TemporaryDirectory(prefix="gatepost-doctor-") as directory:
        Path(directory).chmod(0o755)
        yield Site(Path(directory))


@pytest.fixture
def site(module_site: Site) -> Site:
    """A Postfix with gatepost before its queue, as `apply` left it, whatever the test before has broken."""
    module_site.restore()
    return module_site
