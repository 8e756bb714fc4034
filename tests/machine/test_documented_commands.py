"""Every command in the documentation works, typed as it stands there, in that order, on a machine made for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
from tests.machine.documented_commands import FileToWrite, Step, commands_outside, perform, steps
from tests.machine.machine import CHECKOUT

if TYPE_CHECKING:
    from tests.machine.machine import Machine

TAKEN_OFF: Final = "Take it off"
"""The README's last section: its commands come last here, after the other pages have used what the README set up."""

PAGES: Final = (
    "docs/operating.md",
    "docs/writing-a-plugin.md",
    "systemd/README.md",
    "postfix/README.md",
    "docs/doctor.md",
)

pytestmark = pytest.mark.timeout(600)
"""Some commands install packages."""

PROGRAMS: Final = frozenset(
    [
        "apt-get",
        "cd",
        "cp",
        "gatepost",
        "git",
        "install",
        "journalctl",
        "ln",
        "make",
        "mkdir",
        "pip",
        "pip3",
        "postfix",
        "postconf",
        "pytest",
        "python3",
        "rm",
        "sudo",
        "swaks",
        "systemctl",
        "systemd-sysusers",
        "systemd-tmpfiles",
        "/opt/gatepost/bin/pip",
        "/opt/gatepost/bin/gatepost",
    ]
)


def told() -> list[Step]:
    readme = list(steps((CHECKOUT / "README.md").read_text()))
    last = [step for step in readme if step.heading == TAKEN_OFF]
    others = [step for page in PAGES for step in steps((CHECKOUT / page).read_text())]
    return [*(step for step in readme if step not in last), *others, *last]


def name_of(step: Step) -> str:
    return step.path if isinstance(step, FileToWrite) else re.sub(r"\s*#.*|\s+", " ", step.text).strip()


@pytest.mark.parametrize("step", told(), ids=name_of)
def test_what_the_documentation_says_works(machine: Machine, step: Step) -> None:
    perform(machine, step)


def test_no_page_is_left_out() -> None:
    pages = [*CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("*/README.md")]
    assert {str(page.relative_to(CHECKOUT)) for page in pages if any(steps(page.read_text()))} == set(PAGES)


@pytest.mark.parametrize("page", ["README.md", *sorted(page.name for page in (CHECKOUT / "docs").glob("*.md")), *PAGES])
def test_no_command_escapes(page: str) -> None:
    path = CHECKOUT / page if (CHECKOUT / page).exists() else CHECKOUT / "docs" / page
    assert not commands_outside(path.read_text(), PROGRAMS), "fence commands as sh"
