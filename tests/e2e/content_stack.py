"""All the daemons that content plugins ask, real and private, and the `[[plugin]]` tables that load all of them.

    with Stack() as stack:
        gate.use(stack.tables(), ...)

They find nothing wrong with a message that has neither GTUBE, EICAR, nor a link to `LISTED`. One name server has the
keys of dkim_rig, a block list, and says of every other name that there is none.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Self

from tests.rigs.clamd_rig import Clamd
from tests.rigs.dkim_rig import zones
from tests.rigs.dns_rig import NameServer
from tests.rigs.rspamd_rig import Rspamd
from tests.rigs.spamd_rig import Spamd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LISTED: Final = "spam.example"

ROOT: Final = ". IN NS ns.invalid.\n"
BLOCK_LIST: Final = f'{LISTED}.dbl.invalid. IN A 127.0.1.2\n{LISTED}.dbl.invalid. IN TXT "a spammer\'s"\n'
POLICY: Final = 'strict.example. IN TXT "v=spf1 -all"\n_dmarc.strict.example. IN TXT "v=DMARC1; p=reject"\n'

ORDER: Final = (
    *("spf", "headers", "bogus_bounce", "attachments", "dkim", "arc", "uribl", "dmarc"),
    *("clamav", "spamassassin", "rspamd", "content_log", "authentication_results", "dkim_sign"),
)
"""What docs/content.md recommends."""


class Stack:
    """spamd, clamd, rspamd and a name server, from `with` until its end."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as running:
            self.spamd = running.enter_context(Spamd())
            self.clamd = running.enter_context(Clamd({"StreamMaxLength": "64M"}))
            self.rspamd = running.enter_context(Rspamd())
            more = {"dbl.invalid": BLOCK_LIST, "strict.example": POLICY, ".": ROOT}
            self.names = running.enter_context(NameServer(zones() | more))
            self._running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def dns(self) -> str:
        """The section of the configuration that names the name server."""
        return f'[dns]\nnameservers = ["{self.names.address}"]\n'

    @property
    def needed(self) -> dict[str, str]:
        """What each plugin must be told here, as lines of its table."""
        return {
            "spf": "skip_networks = []\n",
            "uribl": 'zones = ["dbl.invalid"]\n',
            "clamav": f'server = "{self.clamd.unix}"\n',
            "spamassassin": f'server = "{self.spamd.server}"\nreject_threshold = 10\n',
            "rspamd": f'server = "{self.rspamd.socket}"\n',
            "authentication_results": 'authserv_id = "mx.example.org"\n',
        }

    def tables(self, *names: str, more: Mapping[str, str] | None = None, every: str = "") -> str:
        """Return the configuration with these plugins; `more` are lines for one of them, `every` for all."""
        needed, further = self.needed, more or {}
        return self.dns + "".join(
            f'[[plugin]]\nname = "{name}"\n{every}{needed.get(name, "")}{further.get(name, "")}' for name in names
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop all three scanners where they are, as SIGSTOP does; they go on afterwards, come what may."""
        with self.spamd.paused(), self.clamd.paused(), self.rspamd.paused():
            yield
