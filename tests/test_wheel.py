"""The wheel, built from the source archive, used from a folder that has its own ``train.py``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from supportset.train.run_folder import to_toml
from tests.train.small_store import config, plant

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("commands", "evaluate", "extract", "search", "store", "train")
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt",
           "requirements-weights.txt", "supportset", "configs", *PACKAGES)  # fmt: skip
CLASHING = ("train", "store", "extract", "evaluate", "search", "commands")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def call(*words: str | Path, where: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user does: without the checkout in its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of a copy of the checkout, and the wheel built from that archive."""
    pytest.importorskip("build", reason="building needs the package `build`")
    pytest.importorskip("setuptools", "77", reason="building needs setuptools")
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
        else:
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    built = call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy, where=out)
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def venv(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; its libraries are those of this one."""
    place = tmp_path_factory.mktemp("venv")
    made = call(sys.executable, "-m", "venv", "--without-pip", place, where=place)
    assert made.returncode == 0, made.stderr
    site = next(place.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # paths only: no editable install
    wheel = next(dist.glob("*.whl"))
    pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python")
    installed = call(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, where=place)
    if "No module named pip" in installed.stderr:
        pytest.skip("installing the wheel needs pip")
    assert installed.returncode == 0, installed.stderr
    return place / "bin"


@pytest.fixture
def research(tmp_path: Path) -> Path:
    """A folder such as many research projects have: its modules are called like our packages."""
    for name in CLASHING:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the folder was imported')\n")
    return tmp_path


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
        assert f"\nVersion: {__import__('supportset').__version__}\n" in wheel.read(metadata).decode()
    folders = [ROOT / "supportset", *(ROOT / "supportset" / name for name in (*PACKAGES, "configs"))]
    expected = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (folder.glob("*") if folder.name == "supportset" else folder.rglob("*"))
        if path.is_file() and path.suffix in {".py", ".toml", ".typed", ".j2", ".css", ".js", ".svg", ".txt"}
    }
    assert names == expected
    assert {"supportset/py.typed", "supportset/configs/ablations/base/planted.toml"} <= names


def test_verbs_and_known_configurations_work_from_any_folder(venv: Path, research: Path) -> None:
    python = venv / "python"
    for program in ([venv / "supportset"], [python, "-P", "-m", "supportset"], [python, "-m", "supportset"]):
        shown = call(*program, "configs", "objective-planted", where=research)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert 'base = "base/planted.toml"' in shown.stdout
    tables = call(venv / "supportset", "ablate", "objective-planted", "--tables-only", where=research)
    assert "objective-planted" in tables.stderr  # the grid and its base are read: no run of it is there
    assert "no such configuration" not in tables.stderr
    refused = call(venv / "supportset", "demo", "--config", "nosuch.toml", where=research)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: nosuch.toml: no such configuration file")
    assert not (research / "demo").exists()


def test_training_and_the_model_card_work_beside_files_called_like_our_packages(venv: Path, research: Path) -> None:
    plant(research / "features")
    chosen = config(support={"captioning": "none"}, optim={"epochs": 1})
    (research / "mine.toml").write_text(to_toml(chosen), encoding="utf-8")
    trained = call(venv / "supportset", "train", "mine.toml", "--device", "cpu", where=research, OMP_NUM_THREADS="1")
    assert trained.returncode == 0, trained.stderr
    card = (research / "runs" / "small" / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippets
    script = research / "runs" / "snippet.py"  # where the card's own path is right
    script.write_text("\n".join(snippets))
    for name in CLASHING:
        shutil.copy(research / f"{name}.py", script.parent)  # a script's folder comes first on the path
    done = call(venv / "python", script, where=script.parent)
    assert done.returncode == 0, done.stderr
