from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tests.machine.machine import Machine, NamespaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("unshare", "nsenter", "systemctl", "postfix")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine of its own that runs Debian's Postfix on port 25, and has no gatepost yet."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: run make setup")
    if os.geteuid() != 0:
        pytest.skip("a machine of namespaces is made as root only")
    with ExitStack() as stack:
        try:
            one = stack.enter_context(Machine(tmp_path_factory.mktemp("machine")))
        except NamespaceError as error:
            # Nothing that could be installed: a container without the right to make namespaces.
            pytest.xfail(f"no machine can be made here: {error}")
        # As Debian's "Internet Site" has it, however this machine's was installed: make setup takes "Local only".
        one.run("postconf -X default_transport relay_transport && postconf -e inet_interfaces=all")
        one.run("systemctl start postfix@-")
        yield one
