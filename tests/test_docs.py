"""What the documentation shows is true: its plugins type-check and run as it says, its pages are current."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gatepost import PluginOptions
from gatepost.configuration.config import Config, load_config
from gatepost.hooks import EVENTS, HOOKS
from gatepost.ops import hooks_page, plugins_page
from gatepost.testing import gate

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "docs" / "samples"


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    """The files that docs/writing-a-plugin.md tells its reader to write."""
    plugin, test, asking = code_blocks("docs/writing-a-plugin.md")
    (tmp_path / "no_shouting.py").write_text(plugin)
    (tmp_path / "test_no_shouting.py").write_text(test.replace("/etc/gatepost/hooks", str(tmp_path)))
    (tmp_path / "asking.py").write_text(asking)
    (tmp_path / "no_numbers.py").write_text(code_blocks("README.md")[0])
    return tmp_path


def run_tool(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MYPYPATH": f"{ROOT / 'typings'}:{ROOT / 'milter'}"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_the_hooks_page_is_what_the_table_says() -> None:
    assert (ROOT / "docs" / "hooks.md").read_text() == hooks_page.page(), "run: make docs"


def test_the_plugins_page_is_what_the_manuals_say() -> None:
    assert (ROOT / "docs" / "plugins.md").read_text() == plugins_page.page(), "run: make docs"


def test_the_hooks_page_names_every_hook_argument_and_event() -> None:
    page = hooks_page.page()
    for hook in HOOKS.values():
        assert f"`{hook.name}(self, {', '.join(hook.arguments)})`" in page
    for event in EVENTS:
        assert f"`{event}`" in page


def test_plugins_shown_in_the_docs_pass_mypy_strict(tutorial: Path) -> None:
    shown = ("no_numbers.py", "no_shouting.py", "test_no_shouting.py", "asking.py")
    result = run_tool(tutorial, "mypy", "--strict", *shown)
    assert result.returncode == 0, result.stdout


def test_the_tutorials_test_passes_as_printed(tutorial: Path) -> None:
    result = run_tool(
        tutorial, "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "test_no_shouting.py"
    )
    assert "2 passed" in result.stdout, result.stdout


async def test_the_plugin_that_asks_a_server_runs(tutorial: Path) -> None:
    async with gate(directory=tutorial, asking={"server": "127.0.0.1:9"}) as postfix:
        client = postfix.client()
        await client.send("a@example.net", "b@example.org")
    assert client.transaction.notes == {"asking": {"score": 0.0}}


async def test_the_readmes_plugin_refuses_what_it_says(tutorial: Path) -> None:
    async with gate(directory=tutorial, no_numbers={}) as postfix:
        refused = await postfix.client().send("12345@example.com", "b@example.org")
        accepted = await postfix.client().send("123@example.com", "b@example.org")
    assert (refused.code, accepted.code) == (550, 250)


def test_the_sample_configuration_is_good(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES, tmp_path / "etc")
    command = [sys.executable, "-m", "gatepost.ops.cli", "check", "--config", str(tmp_path / "etc" / "gatepost.toml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_sample_configuration_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads((SAMPLES / "gatepost.toml").read_text())
    sample, default = load_config(SAMPLES / "gatepost.toml"), Config()
    for name, field in Config.model_fields.items():
        section: Any = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            continue
        assert getattr(sample, name) == getattr(default, name), name
        missing = set(section.model_fields) - set(shown[name])
        assert missing <= {"directory", "nameservers"}, (name, missing)


@pytest.fixture
def whole_sample(tmp_path: Path) -> Path:
    """The sample with the entries that are comments in it, too."""
    shutil.copytree(SAMPLES, tmp_path / "etc")
    sample = tmp_path / "etc" / "gatepost.toml"
    head, plugins = sample.read_text().split("[[plugin]]", 1)
    head = head.removesuffix("# ")
    sample.write_text(head + re.sub(r"^# ", "", "# [[plugin]]" + plugins, flags=re.MULTILINE))
    return sample


def test_every_entry_of_the_sample_is_good_when_it_is_no_comment(whole_sample: Path) -> None:
    command = [sys.executable, "-m", "gatepost.ops.cli", "check", "--config", str(whole_sample)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_sample_shows_every_option_of_every_bundled_plugin_with_its_default(whole_sample: Path) -> None:
    shown = {entry["name"]: entry for entry in tomllib.loads(whole_sample.read_text())["plugin"]}
    assert set(shown) == {file.stem for file in (ROOT / "hooks").glob("*.py")}
    for name, entry in shown.items():
        options = runpy.run_path(str(ROOT / "hooks" / f"{name}.py")).get("Options", PluginOptions)
        given = {key: value for key, value in entry.items() if key != "name"}
        own = {key: field for key, field in options.model_fields.items() if key not in PluginOptions.model_fields}
        assert set(own) <= set(given), f"{name}: {set(own) - set(given)} missing"
        required = {key: value for key, value in given.items() if options.model_fields[key].is_required()}
        assert options.model_validate(given) == options.model_validate(required), f"{name} shows other defaults"


def test_every_command_that_prose_names_exists() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), ROOT / "CONTRIBUTING.md"]
    named = {found for page in pages for found in re.findall(r"`gatepost((?: [a-z]+(?![\w:=./]))+)", page.read_text())}
    assert len(named) > 3
    for verbs in named:
        command = [sys.executable, "-m", "gatepost.ops.cli", *verbs.split(), "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout
        assert verbs in result.stdout, f"there is no gatepost{verbs}"


def anchors(page: Path) -> set[str]:
    """The page's headings as GitHub spells them in links."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_a_heading_that_are_there() -> None:
    for page in ROOT.glob("**/*.md"):
        if any(part.startswith(".") for part in page.relative_to(ROOT).parts):
            continue
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


def test_every_bundled_plugin_opens_with_its_manual() -> None:
    for file in (ROOT / "hooks").glob("*.py"):
        manual = file.read_text().split('"""')[1]
        assert manual.startswith(f"{file.stem}: ")
        for heading in ("HOOKS", "OPTIONS", "REPLIES", "FAILURE"):
            assert f"\n{heading}\n" in manual, f"{file.name} has no {heading}"


@pytest.mark.parametrize("file", sorted((ROOT / "hooks").glob("*.py")), ids=lambda file: file.stem)
def test_a_manual_names_every_option_of_its_plugin(file: Path) -> None:
    options = runpy.run_path(str(file)).get("Options", PluginOptions)
    manual = file.read_text().split('"""')[1]
    own = set(options.model_fields) - set(PluginOptions.model_fields)
    assert not {name for name in own if not re.search(rf"^ +{name}\b", manual, re.MULTILINE)}
