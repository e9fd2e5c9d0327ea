"""docs/http.md does what it says: its commands print what stands below them."""

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from service.rest.status import STATUSES
from tests import pages
from tests.servers import ROOT, Serve, ServerProcess

PAGE = ROOT / "docs" / "http.md"
ADDRESS = "localhost:8000"
COMMANDS = [
    step.split("\n", 1)
    for block in pages.blocks(PAGE, "shell")
    for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
]


@pytest.fixture(scope="module")
def described(serve: Serve, models_dir: Path) -> ServerProcess:
    """A server with the models of the page."""
    return serve(models_dir, "--models", "mnist,cifar10", "--http-port", "0")


def rounded(text: str) -> str:
    """A text whose long numbers are rounded: their last digits are the processor's."""
    return re.sub(r"\d\.\d{4,}", lambda number: f"{float(number[0]):.3f}", text)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_commands_print_their_output(described: ServerProcess, command: str, output: str) -> None:
    """Each command of a shell block, as pasted, prints what stands below it."""
    netloc = httpx.URL(described.url).netloc.decode()
    shell = ["/bin/sh", "-c", command.replace(ADDRESS, netloc)]
    printed = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True).stdout
    assert rounded(printed) == rounded(output.rstrip("\n"))


def test_table_has_every_status() -> None:
    """The table names each gRPC status code beside the HTTP status that it becomes."""
    rows = re.findall(r"^\| ([\d, ]+) \| ([A-Z_, ]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = [(statuses.split(", "), codes.split(", ")) for statuses, codes in rows]
    for code, status in STATUSES.items():
        assert any(str(status) in statuses and code.name in codes for statuses, codes in told), code
