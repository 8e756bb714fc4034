"""For all tests: nothing is skipped in continuous integration, and no example of Hypothesis has a time limit.

A server that is missing there is a defect. The time of an example says more about the machine than about the code.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

    from pluggy import Result

settings.register_profile("no time limit", settings.default, deadline=None)
settings.load_profile("no time limit")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Result[pytest.TestReport], None]:
    """Turn a skipped test into a failed one where CI is set."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped in CI: {reason}"
