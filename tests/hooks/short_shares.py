"""Servers that are given up long before the hook's own time is over, however late the event loop of a busy machine is.

Otherwise the two moments are a twentieth of the hook's time apart, a few milliseconds where a test is quick.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from gatepost.services.scanners import upstream

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def short_shares(share: float = 0.01) -> Iterator[None]:
    """Give the servers that part of the hook's time, all of them together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "SPARE", share)
        yield
