"""The files of the demo's plugins: who exists, which clients are known, which signature a domain has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN: Final = "wsr.ac.at"
"""The only domain that the private Postfix takes mail for."""

SIGNATURE: Final = "Example Networks - a signature that no mail program had to add"

_ALIASES: Final = """\
# The aliases of the demo; hooks/aliases.py is the manual.
hjp@wsr.ac.at: hjp@asherah.wsr.ac.at
gina@wsr.ac.at: gina@wsr.ac.at
# The archive wants mail as it came, so addsig is off for it.
archive@wsr.ac.at: archive@wsr.ac.at (addsig=off)
postmaster@,wsr.ac.at: hjp@wsr.ac.at
"""

_CLIENT_OPTIONS: Final = """\
# The clients that the demo knows; hooks/client_options.py is the manual.
partner.example.org: greylist=off
"""

BLACK_TIMEOUT_S: Final = 3
"""Long enough to be seen, short enough to be waited for; in earnest it is 50 minutes."""


def lay_out(directory: Path) -> dict[str, dict[str, Any]]:
    """Write the files into `directory`; return the options that the demo gives to plugins, by plugin."""
    signatures = directory / "signatures"
    signatures.mkdir()
    (signatures / "example.net").write_text(SIGNATURE + "\n")
    (signatures / "partner.example.org").write_text(SIGNATURE + "\n")
    aliases = directory / "aliases"
    aliases.write_text(_ALIASES)
    client_options = directory / "client_options"
    client_options.write_text(_CLIENT_OPTIONS)
    return {
        "aliases": {"file": str(aliases)},
        "client_options": {"file": str(client_options)},
        "addsig": {"directory": str(signatures)},
        "greylist": {"black_timeout": f"{BLACK_TIMEOUT_S}s", "grey_timeout": "1h", "white_timeout": "1h"},
    }
