"""Wheel and source distribution, built once for all processes of a run, and environments that have the wheel."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import ROOT

SOURCES = ("convserve", "models", "proto", "service", "training")
FILES = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml", "setup.py")


@dataclass(frozen=True)
class Distributions:
    """What was built from a copy of the checkout."""

    source: Path
    """The copy."""
    sdist: Path
    wheel: Path
    """From the copy itself."""
    wheel_of_sdist: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has the wheel."""

    folder: Path

    def program(self, name: str) -> str:
        """The path of an installed command."""
        return str(self.folder / "bin" / name)

    def run(self, name: str, *arguments: str, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs a command there, with warnings as errors."""
        return subprocess.run(
            [self.program(name), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | {"PYTHONWARNINGS": "error"} | variables,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Built without the network, by the setuptools that is installed here."""
    folder = _common_folder(tmp_path_factory)
    source, built = folder / "source", folder / "built"
    with (folder / "built.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not source.exists():
            _copy_checkout(source)
            _build(source, built / "direct", "--wheel")
            _build(source, built / "by-sdist")  # the sdist, and a wheel of what it holds
    (wheel,) = (built / "direct").glob("*.whl")
    (wheel_of_sdist,) = (built / "by-sdist").glob("*.whl")
    (sdist,) = (built / "by-sdist").glob("*.tar.gz")
    return Distributions(source, sdist, wheel, wheel_of_sdist)


@pytest.fixture(scope="session")
def compiled_wheel(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as by ``CONVSERVE_COMPILE=1 pip wheel .``."""
    folder = _common_folder(tmp_path_factory)
    source, built = folder / "source-to-compile", folder / "compiled"
    with (folder / "compiled.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not source.exists():
            shutil.copytree(distributions.source, source, symlinks=True)
            _build(source, built, "--wheel", CONVSERVE_COMPILE="1")
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def compiled(compiled_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The compiled wheel, and its dependencies as they are installed here."""
    return _environment(tmp_path_factory.mktemp("compiled"), str(compiled_wheel), dependencies=True)


@pytest.fixture(scope="session")
def bare(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel alone, without anything that it depends on."""
    return _environment(tmp_path_factory.mktemp("bare"), str(distributions.wheel), dependencies=False)


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel, and its dependencies as they are installed here."""
    return _environment(tmp_path_factory.mktemp("installed"), str(distributions.wheel), dependencies=True)


@pytest.fixture(scope="session")
def editable(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The copy of the checkout, installed as ``make serve`` installs it."""
    source = str(distributions.source)
    return _environment(tmp_path_factory.mktemp("editable"), "--editable", source, dependencies=True)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder that has nothing but another project's package of the name ``service``."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text('raise ImportError("this is another project")\n')
    return tmp_path


def _common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of a run have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def _copy_checkout(target: Path) -> None:
    unwanted = shutil.ignore_patterns("__pycache__", "*.tmp")
    for name in SOURCES:
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=unwanted)
    for name in FILES:
        shutil.copy2(ROOT / name, target / name)


def _build(source: Path, target: Path, *options: str, **variables: str) -> None:
    """Builds what the options say of a source tree into the target."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), *options, str(source)]
    env = os.environ | variables
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _environment(folder: Path, *package: str, dependencies: bool) -> Environment:
    """Makes a virtual environment in the folder, and installs a package there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    if dependencies:
        here = sysconfig.get_path("purelib")
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text(here + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    ended = subprocess.run([*pip, *offline, *package], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Environment(folder)
