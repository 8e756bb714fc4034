"""One check of one configuration: reads what the daemon would read, on a store in memory, and opens nothing else.

Safe beside a live daemon. Plugins are loaded and their `init` is run, as at a start, because only they know what their
files should look like; `reload` and `shutdown` are not, for they may let go of what the live daemon has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatepost.configuration.config import DEFAULT_FILE, read_config
from gatepost.configuration.loader import Usage
from gatepost.configuration.overrides import NOT_LOADED
from gatepost.errors import in_order as errors_in_order
from gatepost.ops.assembly import assemble
from gatepost.ops.check import order, permission, remark, setting
from gatepost.ops.check.finding import Finding, in_order
from gatepost.services.dns.resolver import open_resolver
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gatepost.configuration.config import Config
    from gatepost.ops.assembly import Assembly


@dataclass(frozen=True, slots=True)
class Examination:
    """What was looked at, and everything that was found, by file and line."""

    source: str
    """The configuration's file, or `the built-in default`."""
    plugins: tuple[str, ...]
    """The plugins that load, in order."""
    findings: tuple[Finding, ...]

    def count(self, severity: str) -> int:
        """Return how many findings there are of a kind."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def is_good(self) -> bool:
        """True when the daemon would start; there may be warnings."""
        return self.count("error") == 0


async def examine(file: Path | None) -> Examination:
    """Check the configuration in `file`, or where the daemon looks without one; the log of this process goes silent."""
    heard = remark.listen()
    config, errors = read_config(file)
    errors += setting.store_problems(config)
    usage = Usage()
    store, dns = open_store("sqlite::memory:"), open_resolver(config.dns)
    try:
        assembly = await assemble(config, store, dns, usage)
    finally:
        await dns.close()
        await store.close()
    findings = [Finding.of(error) for error in errors_in_order([*errors, *assembly.errors])]
    if config.file is not None:
        is_whole = "plugin" not in config.left_out
        places = {loaded.name: loaded.place for loaded in assembly.pipeline.plugins}
        # With plugins missing from the configuration, nobody knows what an option is for.
        findings += remark.findings_in((one for one in heard if is_whole or one["event"] != NOT_LOADED), places)
        findings += _cross_checks(config, assembly, usage)
    source = str(config.file or (file and file.absolute()) or f"the built-in default ({DEFAULT_FILE} is not there)")
    names = tuple(loaded.name for loaded in assembly.pipeline.plugins if loaded.name not in assembly.faulty)
    return Examination(source, names, tuple(in_order(findings)))


def _cross_checks(config: Config, assembly: Assembly, usage: Usage) -> Iterator[Finding]:
    plugins = [loaded for loaded in assembly.pipeline.plugins if loaded.name not in assembly.faulty]
    yield from setting.findings(config, plugins)
    yield from setting.overrides_that_fail(plugins, usage)
    yield from setting.without_edge(config, plugins, usage)
    yield from order.late_setters(plugins, usage)
    yield from order.late_whitelists(plugins)
    yield from order.without_hooks(plugins)
    yield from order.disturbed_signatures(plugins)
    if len(plugins) == len(config.plugins) and "plugin" not in config.left_out:
        yield from order.unreachable(plugins, usage, edge=config.milter.edge)
        yield from order.absent_results(plugins)
    obeyed = [config.file] if config.file else []
    obeyed += [loaded.file for loaded in assembly.pipeline.plugins]
    yield from permission.writable_by_others(obeyed)
    yield from permission.unreadable([*obeyed, *(path for _, path in usage.files)])
    if store := setting.store_directory(config):
        yield from permission.unwritable([store])
