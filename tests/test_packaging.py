"""The wheel is whole: built and installed apart from the checkout, it runs; and nothing here shadows a library."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

OWN_PLUGIN = '''\
"""own_rule: the administrator's own plugin."""

from gatepost import Deny, Plugin, PluginOptions


class OwnRule(Plugin[PluginOptions]):
    async def rcpt(self, transaction, recipient):
        return Deny("not here")
'''


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without the environment's Python settings; its output, or a failure that shows it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=ROOT)
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin directory of a venv that holds the wheel, and the running venv's libraries after it."""
    root = tmp_path_factory.mktemp("venv")
    venv.create(root, symlinks=True)
    run(
        *(sys.executable, "-m", "pip", "--python", root / "bin" / "python", "install", "--no-deps", "--no-index"),
        *("--disable-pip-version-check", wheel),
        cwd=root,
    )
    packages = sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)})
    # A .pth file only appends a directory, and files in that one (the editable gatepost) are not obeyed.
    Path(packages, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "bin"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration with a bundled plugin and one of the administrator's own."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_rule.py").write_text(OWN_PLUGIN)
    file = tmp_path / "gatepost.toml"
    file.write_text(
        f'[store]\nurl = "sqlite:{tmp_path}/gatepost.db"\n'
        f'[milter]\nsocket = "unix:{tmp_path}/milter.sock"\n'
        f'[hooks]\ndirectory = "{tmp_path}/own"\n'
        '[[plugin]]\nname = "count_denies"\n'
        '[[plugin]]\nname = "own_rule"\n'
    )
    # The socket's group comes from its directory.
    tmp_path.chmod(0o2750)
    return file


def test_the_wheel_holds_the_code_and_what_it_shares_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    assert "gatepost/py.typed" in names
    for bundled in ("hooks", "postfix", "systemd"):
        files = {
            file.name for file in (ROOT / bundled).rglob("*") if file.is_file() and "__pycache__" not in file.parts
        }
        shared = {name.rpartition("/")[2] for name in names if name.startswith(f"gatepost/_share/{bundled}/")}
        assert shared == files != set()
    strays = [name for name in names if not name.startswith(("gatepost/", "gatepost-"))]
    assert strays == []
    assert [name for name in names if name.endswith(".pyc") or "/tests/" in name] == []


def test_the_installed_wheel_uses_its_own_code(installed: Path, tmp_path: Path) -> None:
    code = "import gatepost, milter; print(gatepost.__file__); milter.main"
    where = run(installed / "python", "-c", code, cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)


def test_check_passes_from_the_installed_wheel(installed: Path, config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run(installed / "gatepost", "check", "--config", config, cwd=tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_hooks_names_the_bundled_plugin_and_the_own_one(installed: Path, config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shown = run(installed / "gatepost", "hooks", "--config", config, cwd=tmp_path / "empty")
    assert "count_denies" in shown
    assert "own_rule" in shown


# --- shadows


@pytest.mark.parametrize("directory", ["milter", "tests/milter", "tests"])
def test_no_folder_of_ours_takes_the_name_of_pymilters_extension(directory: str) -> None:
    """The extension is a top-level module `milter`; a package of that name, but not a bare folder, would hide it."""
    assert not (ROOT / directory / "__init__.py").exists()
    assert not (ROOT / directory / "milter.py").exists()


def test_import_milter_in_the_checkout_is_pymilter() -> None:
    code = "import milter; print(hasattr(milter, 'main'), milter.__file__)"
    found, file = run(sys.executable, "-c", code, cwd=ROOT).split(maxsplit=1)
    assert found == "True"
    assert not Path(file.strip()).is_relative_to(ROOT / "milter")


LOAD = """
import importlib.util, sys
from pathlib import Path
from gatepost.configuration.config import load_config
from gatepost.configuration.loader import load_plugins
from gatepost.services.store.store import open_store

before = list(sys.path)
plugins = load_plugins(load_config(Path(sys.argv[1])), open_store("sqlite::memory:"))
assert [plugin.name for plugin in plugins] == ["count_denies", "colorsys"], plugins
assert sys.path == before, sys.path
assert importlib.util.find_spec("count_denies") is None
import colorsys
assert colorsys.rgb_to_hsv, colorsys
print("loaded")
"""


def test_a_plugin_named_like_a_library_does_not_take_its_place(config: Path) -> None:
    """As `spf` and `dkim` are: the directories of plugins are never searched for imports."""
    (config.parent / "own" / "colorsys.py").write_text(OWN_PLUGIN)
    config.write_text(config.read_text().replace('"own_rule"', '"colorsys"'))
    assert run(sys.executable, "-c", LOAD, config, cwd=ROOT) == "loaded\n"
