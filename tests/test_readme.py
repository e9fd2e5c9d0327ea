"""README and docs do what they say: examples run against a running server, options exist, the table is true."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pages
from tests.interop.test_tritonclient import TRITON_PYTHON
from tests.servers import ROOT, ServerProcess

ADDRESS = "127.0.0.1:8001"
"""Where the pages' server listens."""
ELSEWHERE = {"--build-arg", "--compile", "--stop-timeout", "--token"}
"""Options of docker that the pages name in a sentence, and environment variables that are no options."""
PROGRAMS = (
    "benchmarks",
    "benchmarks.providers",
    "convserve classify",
    "convserve completion",
    "convserve dataset",
    "convserve export",
    "convserve front",
    "convserve health",
    "convserve infer",
    "convserve inspect",
    "convserve list",
    "convserve pull",
    "convserve serve",
    "convserve tokens new",
    "convserve top",
    "convserve tune",
    "convserve.training.data",
    "service",
    "service.client classify",
    "service.client dataset",
    "service.client infer",
    "service.client top",
    "service.health_check",
    "service.pull",
    "service.tokens new",
    "service.tune",
    "training.data",
    "training.export",
    "training.inspect",
    "training.report",
    "training.report.shapes",
    "training.reproduce",
)

TRANSCRIPTS = [
    (page, *step.split("\n", 1))
    for page in pages.GUIDE
    for block in pages.blocks(page, "console")
    for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
]
EXAMPLES = [(page, code) for page in pages.GUIDE for code in pages.blocks(page, "python")]

native_only = pytest.mark.parametrize("transport", ["native"], indirect=True)
"""The pages say the same on both transports, so one server is enough for them."""


def run(command: list[str], server: ServerProcess, cwd: Path = ROOT) -> str:
    """What a user sees on a terminal, with the pages' address for the server's own."""
    host, _, port = server.address.rpartition(":")
    told = {"CONVSERVE_ADDRESS": server.address, "CONVSERVE_HOST": host, "CONVSERVE_PORT": port}
    ran = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=os.environ | told,
        timeout=60,
        check=False,
    )
    return ran.stdout.replace(server.address, ADDRESS)


@functools.cache
def help_of(program: str) -> str:
    """What ``python -m PROGRAM --help`` prints."""
    command = [sys.executable, "-m", *program.split(), "--help"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60).stdout


def options_in(text: str) -> set[str]:
    """The long options in a text."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


@native_only
@pytest.mark.parametrize(
    ("command", "output"),
    [step[1:] for step in TRANSCRIPTS],
    ids=[f"{pages.name(page)}: {command}" for page, command, _ in TRANSCRIPTS],
)
def test_transcripts_show_what_is_printed(server: ServerProcess, command: str, output: str) -> None:
    """Each command of a console block prints, against a running server, what stands below it."""
    program, *arguments = shlex.split(command)
    modules = {".venv/bin/python": (), "convserve": ("-m", "convserve")}
    assert run([sys.executable, *modules[program], *arguments], server) == output


@native_only
@pytest.mark.parametrize(
    ("page", "code"), EXAMPLES, ids=[f"{pages.name(page)}-{number}" for number, (page, _) in enumerate(EXAMPLES)]
)
def test_python_examples_print_their_output(server: ServerProcess, page: Path, code: str, tmp_path: Path) -> None:
    """Each Python example, as pasted, prints the text block that follows it."""
    output = re.match(r"```\n\n```text\n(.*?)```\n", page.read_text("utf-8").partition(code)[2], re.DOTALL)
    assert output is not None, "a Python example is followed by a text block with its output"
    foreign = "import tritonclient" in code  # which lives in an environment of its own, without our packages
    python, folder = (str(TRITON_PYTHON), tmp_path) if foreign else (sys.executable, ROOT)
    assert run([python, "-c", code.replace(ADDRESS, server.address)], server, folder) == output[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_explain_themselves(program: str) -> None:
    """Each program of the pages is there, and ``--help`` says how it is called."""
    assert help_of(program).startswith("usage: ")


@pytest.mark.parametrize("page", pages.GUIDE, ids=pages.name)
def test_pages_name_existing_programs(page: Path) -> None:
    """Each module that a page runs by ``python -m`` is a program, pytest or one of the tests' own; commands exist."""
    text = page.read_text("utf-8")
    named = set(re.findall(r"python -m ([\w.]+\w)", text))
    parts = {name for name in named if name.startswith("tests.") and (ROOT / f"{name.replace('.', '/')}.py").is_file()}
    assert named - parts <= {"pytest", *(program.split()[0] for program in PROGRAMS)}
    commands = set(re.findall(r"(?:`|^\$ )convserve ([a-z]+)", text, re.MULTILINE))
    assert commands <= {program.split()[1] for program in PROGRAMS if program.startswith("convserve ")}


@pytest.mark.parametrize("page", pages.GUIDE, ids=pages.name)
def test_command_lines_name_existing_options(page: Path) -> None:
    """Each option in an sh block is one of that program's own."""
    for line in "".join(pages.blocks(page, "sh")).splitlines():
        if line.startswith((".venv/bin/python -m ", "convserve ")):
            words = line.removeprefix(".venv/bin/python -m ").split()
            program = next(name for count in (3, 2, 1) if (name := " ".join(words[:count])) in PROGRAMS)
            assert options_in(line) <= options_in(help_of(program)), line


@pytest.mark.parametrize("page", pages.GUIDE, ids=pages.name)
def test_sentences_name_existing_options(page: Path) -> None:
    """Each option, environment variable and make target in a page's prose is one that a program has."""
    text = pages.prose(page)
    named = options_in(text)
    named |= {"--" + name.lower().replace("_", "-") for name in re.findall(r"CONVSERVE_(\w+)", text)}
    if named:
        assert sorted(named - ELSEWHERE - options_in("".join(map(help_of, PROGRAMS)))) == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_model_table_matches_the_catalogue() -> None:
    """README's table has every model of models/README.md, with the same figures, and no other."""
    rows = re.findall(r"^\| \[?(`[\w-]+`)(.*)\|$", (ROOT / "models" / "README.md").read_text("utf-8"), re.MULTILINE)
    catalogue = {}
    for name, rest in rows:
        cells = [cell.strip() for cell in rest.split("|")]
        _, _, data_set, _, parameters, _, size, accuracy, _, rate = cells[:10]
        if accuracy != "-":
            catalogue[name] = (data_set, parameters, size, rate, accuracy)
    table = re.findall(
        r"^\| (`[\w-]+`) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| .*? \| (.*?) \|$",
        (ROOT / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert {name: tuple(cells) for name, *cells in table} == catalogue
    files = {f"`{path.parts[-3]}`" for path in (ROOT / "models").glob("*/*/model.onnx")}
    not_kept = {name for name, rest in rows if "(not kept here)" in rest}
    assert files <= catalogue.keys() <= files | not_kept
