"""Plugins that stand in the wrong place: each is told, and what only looks like it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.ops.host import HEAD

from gatepost.configuration.config import read_text
from gatepost.configuration.loader import Usage
from gatepost.ops.assembly import assemble
from gatepost.ops.check import order, setting
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from gatepost.services.store.store import Store

    Told = Callable[..., Awaitable[list[str]]]

HOOKS = {
    "sign": "class Sign(Plugin):\n    signs = True\n    def data_post(self, t, m): ...\n",
    "seal": "class Seal(Plugin):\n    signs = True\n    def data_post(self, t, m): ...\n",
    "edit": "class Edit(Plugin):\n    def data_post(self, t, m): ...\n",
    "scan": "class Scan(Plugin):\n    scanner = True\n    def data_post(self, t, m): ...\n",
    "mark": (
        "def mark(m):\n    m.add_header('X-Mark', '1')\n"
        "class Mark(Plugin):\n    scanner = True\n    def data_post(self, t, m): mark(m)\n"
    ),
    "check": "class Check(Plugin):\n    scanner = verifies = True\n    def data_post(self, t, m): ...\n",
    "needy": (
        "class Needy(Plugin):\n    after = ('scan', 'early')\n    needs = ('scan',)\n"
        "    def data_post(self, t, m): ...\n"
    ),
    "sums_up": "class SumsUp(Plugin):\n    after = ('scan', 'early')\n    def data_post(self, t, m): ...\n",
    "read": "class Read(Plugin):\n    def body(self, t, chunk): ...\n",
    "idle": "class Idle(Plugin):\n    def init(self): ...\n",
    "early": "class Early(Plugin):\n    def connect(self, s): ...\n",
    "own_setter": "class OwnSetter(Plugin):\n    def connect(self, s):\n        s.override(object())\n",
    "deep_setter": (
        "class DeepSetter(Plugin):\n    def mail(self, t, s, p):\n        self._set(t)\n"
        "    def _set(self, t):\n        t.override(object())\n"
    ),
    "spares": "class Spares(Plugin):\n    def rcpt(self, t, r):\n        r.whitelist('x')\n",
    "spared": (
        "class Options(PluginOptions):\n    skip_whitelisted: bool = True\n"
        "class Spared(Plugin[Options]):\n    def rcpt(self, t, r): ...\n"
    ),
    "pair": (
        "from pydantic import model_validator\n"
        "class Options(PluginOptions):\n    low: int = 1\n    high: int = 5\n"
        "    @model_validator(mode='after')\n    def _ordered(self):\n"
        "        if self.low > self.high: raise ValueError('low is above high')\n        return self\n"
        "class Pair(Plugin[Options]):\n    def rcpt(self, t, r): ...\n"
    ),
    "guests": (
        "from typing import Annotated\nfrom gatepost import NeedsEdge\n"
        "class Options(PluginOptions):\n    most: Annotated[int, NeedsEdge] = 0\n"
        "class Guests(Plugin[Options]):\n    def rcpt(self, t, r): ...\n"
    ),
    "loop": "class Loop(Plugin):\n    def rcpt(self, t, r): ...\n",
}

GREYLIST = '[[plugin]]\nname = "greylist"\n'
ALIASES = '[[plugin]]\nname = "aliases"\nfile = "aliases"\n'
CLIENTS = '[[plugin]]\nname = "client_options"\nfile = "clients"\n'


def tables(*names: str) -> str:
    """Return a table for each; `greylist=off` gives it this mode."""
    split = (name.partition("=") for name in names)
    return "".join(f'[[plugin]]\nname = "{name}"\nmode = "{mode or "enforce"}"\n' for name, _, mode in split)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = open_store("sqlite::memory:")
    yield store
    await store.close()


@pytest.fixture
def told(tmp_path: Path, store: Store) -> Told:
    """Return what is told of these plugins, as `LINE: WORDS`, errors of their order first."""
    for name, source in HOOKS.items():
        (tmp_path / f"{name}.py").write_text(HEAD + source)
    (tmp_path / "aliases").write_text("")
    (tmp_path / "clients").write_text("")

    async def tell(plugins: str, *, sections: str = "", **files: str) -> list[str]:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        text = f'{plugins}\n[hooks]\ndirectory = "{tmp_path}"\n[milter]\nsocket = "127.0.0.1:9"\n{sections}'
        config, errors = read_text(text, tmp_path / "gatepost.toml")
        usage = Usage()
        assembly = await assemble(config, store, usage=usage)
        assert errors == []
        loaded = assembly.pipeline.plugins
        found = [
            *setting.findings(config, loaded),
            *setting.overrides_that_fail(loaded, usage),
            *setting.without_edge(config, loaded, usage),
            *order.late_setters(loaded, usage),
            *order.late_whitelists(loaded),
            *order.without_hooks(loaded),
            *order.disturbed_signatures(loaded),
            *order.unreachable(loaded, usage, edge=config.milter.edge),
            *order.absent_results(loaded),
        ]
        return [
            *(f"{error.line}: {error.message}" for error in assembly.errors),
            *(f"{one.line}: {one.severity}: {one.problem}" for one in found),
        ]

    return tell


# --- signatures


@pytest.mark.parametrize("names", [("sign", "edit"), ("sign", "seal", "edit"), ("sign", "scan", "edit")])
async def test_an_editor_after_a_signer_is_a_mistake(told: Told, names: tuple[str, ...]) -> None:
    (error,) = await told(tables(*names))

    assert error.startswith(f"{3 * len(names) - 2}: edit may edit the message after sign (line 1) has signed it")
    assert "put it before sign" in error


@pytest.mark.parametrize(
    "names",
    [
        ("edit", "sign"),
        ("sign", "seal"),
        ("sign", "scan"),
        ("sign", "read"),
        ("sign=observe", "edit"),
        ("sign", "edit=observe"),
    ],
)
async def test_what_leaves_a_signature_whole_is_none(told: Told, names: tuple[str, ...]) -> None:
    assert await told(tables(*names)) == []


async def test_a_scanner_that_edits_may_not_stand_after_a_signer(told: Told) -> None:
    (error,) = await told(tables("sign", "mark"))

    assert error.startswith("4: mark may edit the message after sign (line 1) has signed it")
    assert await told(tables("mark", "sign")) == []


async def test_an_editor_before_a_plugin_that_checks_signatures_is_told(told: Told) -> None:
    (warning,) = await told(tables("mark", "edit", "check"))

    assert warning == "7: warning: signatures that check checks may be broken by edits of mark (line 1): put it before"


@pytest.mark.parametrize(
    "names",
    [("check", "mark"), ("mark", "check"), ("mark", "early", "check"), ("mark=observe", "edit", "check"), ("check",)],
)
async def test_what_edits_behind_it_or_beside_it_disturbs_no_signature(told: Told, names: tuple[str, ...]) -> None:
    assert await told(tables(*names)) == []


# --- plugins that read what others find


async def test_a_plugin_in_front_of_one_whose_results_it_reads_is_a_mistake(told: Told) -> None:
    error, _ = await told(tables("sums_up", "scan"))

    assert error == "1: sums_up reads what scan (line 4) finds: put it behind scan"


@pytest.mark.parametrize("names", [("scan", "early", "sums_up"), ("sums_up", "early", "scan=off")])
async def test_a_plugin_that_finds_all_results_is_in_its_place(told: Told, names: tuple[str, ...]) -> None:
    assert [one for one in await told(tables(*names)) if "sums_up" in one] == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("sums_up",), "1: warning: sums_up reads what scan, early would find, and nobody of that name is loaded"),
        (("scan", "sums_up"), "4: note: sums_up reads what early would find, and nobody of that name is loaded"),
        (("scan", "needy"), "4: note: needy reads what early would find, and nobody of that name is loaded"),
        (("early", "needy"), "4: warning: needy reads what scan would find, and nobody of that name is loaded"),
    ],
)
async def test_results_that_nobody_finds_are_told(told: Told, names: tuple[str, ...], expected: str) -> None:
    assert await told(tables(*names)) == [expected]


# --- plugins that are never asked


async def test_a_plugin_without_a_hook_is_told(told: Told) -> None:
    assert await told(tables("idle")) == ["1: warning: idle takes part in no hook: take it out, or give it one"]


async def test_a_plugin_that_is_off_and_that_nothing_could_switch_on_is_told(told: Told) -> None:
    (warning,) = await told(tables("early", "greylist=off"))

    assert warning.startswith("4: warning: greylist is off, and no plugin is loaded that could switch it on")


@pytest.mark.parametrize("setter", ["own_setter", "deep_setter"])
async def test_a_plugin_that_any_other_could_switch_on_is_not(told: Told, setter: str) -> None:
    assert await told(tables(setter, "greylist=off")) == []


@pytest.mark.parametrize("line", ["greylist", "greylist=observe", "greylist.mode=enforce", "denysoft_greylist"])
async def test_a_plugin_that_a_line_switches_on_is_not(told: Told, line: str) -> None:
    assert await told(ALIASES + tables("greylist=off"), aliases=f"a@example.org: ({line})\n") == []


async def test_a_plugin_that_no_line_switches_on_yet_is_a_note(told: Told) -> None:
    found = await told(ALIASES + tables("greylist=off"), aliases="a@example.org: (greylist=off)\n")

    assert found == ["4: note: greylist is off, and no line of aliases switches it on"]


async def test_a_plugin_that_acts_on_refusals_alone_is_told_where_nobody_refuses(told: Told) -> None:
    (warning,) = await told(tables("count_denies"))

    assert warning.startswith("1: warning: count_denies only acts on refusals")
    assert await told(tables("count_denies", "early")) == []
    assert await told(tables("count_denies"), sections="edge = true\n") == [], "Postfix refuses, too"


async def test_an_option_for_the_edge_alone_is_told_where_there_is_none(told: Told) -> None:
    guests = '[[plugin]]\nname = "guests"\nmost = {}\nskip_authenticated = {}\n'
    assert await told(guests.format(3, "true")) == [
        "3: warning: guests.most does nothing without the edge door: set edge = true in [milter]",
        "4: warning: guests.skip_authenticated does nothing without the edge door: set edge = true in [milter]",
    ]
    assert await told(guests.format(3, "true"), sections="edge = true\n") == []
    assert await told(guests.format(0, "false")) == []
    assert await told(GREYLIST + "skip_authenticated = true\n") == [], "it is the default, and says nothing new"


async def test_an_option_for_the_edge_alone_is_told_once_of_a_file(told: Told) -> None:
    lines = "192.0.2.1: guests.most=0\n192.0.2.2: guests.most=5\n192.0.2.3: guests.most=6\n"
    (warning,) = await told(CLIENTS + tables("guests"), clients=lines)
    assert warning == "2: warning: guests.most does nothing without the edge door: set edge = true in [milter]"
    assert await told(CLIENTS + tables("guests"), sections="edge = true\n", clients=lines) == []


async def test_the_bundled_options_for_the_edge_alone(told: Told) -> None:
    limits = '[[plugin]]\nname = "limits"\nclient = "9/hour"\nlogin = "9/hour"\nlogin_recipients = "9/hour"\n'
    allow = '[[plugin]]\nname = "hosts_allow"\nfile = "clients"\nmax_connections = 9\n'
    found = await told(limits + allow)
    assert [line.split(" does nothing ")[0] for line in found] == [
        "4: warning: limits.login",
        "5: warning: limits.login_recipients",
        "9: warning: hosts_allow.max_connections",
    ]


async def test_a_plugin_for_the_edge_alone_is_told_where_there_is_none(told: Told) -> None:
    (warning,) = await told(tables("unrecognized"))

    assert warning.startswith("1: warning: unrecognized only takes part in hooks of the edge door: set edge = true")
    assert await told(tables("unrecognized"), sections="edge = true\n") == []


# --- plugins that come too late


async def test_what_sets_options_after_they_were_asked_for_is_told(told: Told) -> None:
    (warning,) = await told(GREYLIST + ALIASES, aliases="a@example.org: (greylist=off)\n")

    assert warning == (
        "3: warning: aliases sets options of greylist (line 1), which is asked before it at rcpt: "
        "put aliases before greylist"
    )


async def test_options_that_are_asked_for_only_later_may_be_set_by_a_later_plugin(told: Told) -> None:
    assert await told(GREYLIST + CLIENTS, clients="192.0.2.1: greylist=off\n") == []
    assert await told(ALIASES + GREYLIST, aliases="a@example.org: (greylist=off)\n") == []
    assert await told(GREYLIST + ALIASES, aliases="a@example.org: b@example.org\n") == []


@pytest.mark.parametrize("plugins", [tables("early") + ALIASES, ALIASES + tables("early")])
async def test_options_that_come_after_the_last_hook_of_a_plugin_are_told(told: Told, plugins: str) -> None:
    (warning,) = await told(plugins, aliases="a@example.org: (early=off)\n")

    assert "sets options of early at rcpt, when all of its hooks are over (connect): they have no effect" in warning


async def test_a_whitelist_after_what_it_exempts_from_is_told(told: Told) -> None:
    (warning,) = await told(tables("spared", "early", "spares"))

    assert warning == "7: warning: spares exempts from plugins that are asked before it: put it before spared (line 1)"
    assert await told(tables("spares", "spared")) == []
    assert await told(tables("early", "spares")) == []


# --- settings


async def test_options_of_a_file_that_do_not_go_with_the_configured_ones_are_told_once(told: Told) -> None:
    found = await told(
        ALIASES + tables("pair") + "low = 4\n",
        aliases="".join(f"a{i}@example.org: (pair.high={n})\n" for i, n in enumerate((5, 3, 4, 3))),
    )

    (warning,) = found
    assert warning.startswith("2: warning: the options of pair, as overridden, are not valid: low is above high: ")


async def test_a_plugin_that_takes_the_place_of_a_bundled_one_is_a_note(told: Told) -> None:
    (note,) = await told(tables("loop"))

    assert note.startswith("1: note: loop is your own ")


async def test_a_timeout_longer_than_a_reply_may_take_is_a_note(told: Told) -> None:
    front = '[proxy]\nfront_timeout = "20s"\n'

    assert await told(f'{GREYLIST}timeout = "11s"\n', sections=front) == [
        "3: note: greylist.timeout is cut to 10 s, 10 s before proxy.front_timeout"
    ]
    assert await told(f'{GREYLIST}timeout = "10s"\n', sections=front) == []
    # Nobody has asked for the default.
    assert await told(GREYLIST, sections=front) == []


async def test_a_defer_limit_at_which_postfix_hangs_up_is_told(told: Told) -> None:
    (warning,) = await told(GREYLIST, sections="[content]\ndefer_limit = 20\n")

    assert warning.startswith("9: warning: content.defer_limit 20: Postfix hangs up on a client after 20 refusals")
    assert await told(GREYLIST, sections="[content]\ndefer_limit = 19\n") == []


async def test_a_defer_limit_that_is_not_used_is_a_note(told: Told) -> None:
    (note,) = await told(GREYLIST, sections='[content]\ndisagree = "lenient"\ndefer_limit = 8\n')

    assert note == '10: note: content.defer_limit has no effect while content.disagree = "lenient"'


async def test_a_milter_socket_that_postfix_cannot_reach_is_told_at_its_line(told: Told, tmp_path: Path) -> None:
    config, _ = read_text(f'[milter]\nedge = false\nsocket = "unix:{tmp_path}/none/x"\n', tmp_path / "gatepost.toml")

    (warning,) = setting.findings(config, [])

    assert (warning.severity, warning.line) == ("warning", 3)
    assert "install -d -o gatepost -g postfix -m 2750" in warning.problem
