"""The wheel with its request path compiled: it is what it says, and it behaves as the Python modules do."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.package.conftest import Distributions, Environment
from tests.package.test_distributions import contents
from tests.package.test_installed import SEVEN, InstalledServer
from tests.servers import ROOT

COMPILED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["convserve"]["compiled"]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
HAS_COMPILER = shutil.which("gcc") and Path(sysconfig.get_path("include"), "Python.h").exists()

pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="needs gcc and Python's headers")


def test_compiled_wheel_has_every_module(compiled_wheel: Path) -> None:
    """Each module of the list is there compiled, with its source, and nothing else comes to the top."""
    files = set(contents(compiled_wheel))
    assert {f"convserve/service/{module}{ending}" for module in COMPILED for ending in (SUFFIX, ".py")} <= files
    with zipfile.ZipFile(compiled_wheel) as file:
        assert {name.partition("/")[0].partition("-")[0] for name in file.namelist()} == {"convserve"}


def test_compiled_server_says_so(compiled: Environment, empty: Path) -> None:
    """The first line of its log says that it is compiled, and it takes a seven for a seven."""
    with InstalledServer(compiled, empty, "--models", "mnist-tiny") as server:
        assert server.events.await_one("starting")["compiled"] is True
        answer = compiled.run(
            "convserve", "classify", SEVEN, "--model", "mnist-tiny", "--address", server.address, "--json", cwd=empty
        )
    assert '"label": "7"' in answer.stdout, answer.stderr


def test_compiled_wheel_conforms(compiled: Environment) -> None:
    """The tests of HTTP/2, of gRPC over it, and of scanned requests pass on the compiled modules."""
    chosen = ["tests/service/http2", "tests/conformance", "tests/service/api/test_request_scanner.py"]
    options = ["-q", "-p", "tests.package.wheel_as_service", "-p", "no:cacheprovider", "-p", "no:xdist"]
    ended = subprocess.run(
        [compiled.program("python"), "-m", "pytest", *options, *chosen],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]


def test_wrong_wish_is_refused(distributions: Distributions) -> None:
    """A CONVSERVE_COMPILE that is neither 0 nor 1 ends the build with a sentence."""
    ended = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=distributions.source,
        env=os.environ | {"CONVSERVE_COMPILE": "yes"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert "CONVSERVE_COMPILE is 'yes': 1 compiles the request path, 0 does not" in ended.stderr
