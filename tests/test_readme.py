"""The README does what it says: its examples run against the running server, and its tables are true."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.test_tritonclient import TRITON_PYTHON
from tests.servers import ROOT, ServerProcess
from training.catalog import NOT_KEPT

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TRANSCRIPT = re.findall(r"```console\n(.*?)```", README, re.DOTALL)[0]
COMMANDS = [part.split("\n", 1) for part in TRANSCRIPT.split("$ .venv/bin/python ")[1:]]


def run(command: list[str], cwd: Path = ROOT, **environment: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_the_transcript_is_what_one_sees(server: ServerProcess, command: str, output: str) -> None:
    assert run([sys.executable, *shlex.split(command)], CONVSERVE_ADDRESS=server.address) == output


def test_our_client_works_as_pasted(server: ServerProcess) -> None:
    script = EXAMPLES[0].replace("127.0.0.1:8001", server.address)
    best = [line.split("'")[1] for line in run([sys.executable, "-c", script]).splitlines()]
    assert best == ["ship", "frog"]


def test_tritonclient_works_as_pasted(server: ServerProcess, tmp_path: Path) -> None:
    script = EXAMPLES[1].replace("127.0.0.1:8001", server.address)
    assert run([str(TRITON_PYTHON), "-c", script], cwd=tmp_path) == "(4, 10)\n"


def test_the_table_of_models_is_that_of_the_files() -> None:
    page = (ROOT / "models" / "README.md").read_text()
    catalogue = dict(re.findall(r"^\| \[(`[\w-]+`)\]\([^)]*\) .*?\| ([\d.]+ %) \|", page, re.M))
    files = {f"`{path.parts[-3]}`" for path in (ROOT / "models").glob("*/*/model.onnx")}
    not_kept = {f"`{name}{end}`" for name in NOT_KEPT for end in ("", "-int8")}
    assert files <= catalogue.keys()
    assert catalogue.keys() - files <= not_kept
    assert dict(re.findall(r"^\| (`[\w-]+`) .*\| ([\d.]+ %) \|$", README, re.M)) == catalogue


def test_every_file_in_the_tree_exists_and_every_module_is_in_it() -> None:
    tree = README.partition("## The files")[2]
    named = {
        ROOT / path for path in re.findall(r"^    ((?:proto|service|training|benchmarks|tests)\S*?),? ", tree, re.M)
    }
    assert all(path.exists() for path in named)
    for folder in ("service", "training"):
        for path in (ROOT / folder).glob("[a-z]*.py"):
            assert path.name in tree, f"{path} has no line in the README's tree"
