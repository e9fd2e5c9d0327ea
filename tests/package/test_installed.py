"""The wheel in an environment of its own, in a folder that has nothing but a decoy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import service
from tests.package.conftest import Distributions, Environment
from tests.package.test_distributions import MODELS
from tests.servers import ROOT, ServerProcess

SEVEN = str(ROOT / "tests" / "pictures" / "seven.png")


class InstalledServer(ServerProcess):
    """``convserve`` as installed, with these options, in a folder."""

    def __init__(self, environment: Environment, cwd: Path, *options: str) -> None:
        super().__init__(cwd, env={"PYTHONWARNINGS": "error"})
        listen = ("--port", "0", "--providers", "cpu", "--log-format", "json")
        self._command = [environment.program("convserve"), *options, *listen]
        self._cwd = cwd


@pytest.mark.parametrize("options", [(), ("serve", "--workers", "2")], ids=["plain", "workers"])
def test_bundled_models_are_served(installed: Environment, empty: Path, options: tuple[str, ...]) -> None:
    """In an empty folder the server serves the package's models and says so, and the client gets its answer."""
    with InstalledServer(installed, empty, *options) as server:
        told = server.events.await_one("there is no folder models here: serving the models of the package")
        assert Path(told["models_dir"]).is_relative_to(installed.folder)
        server.events.await_one("ready")
        address = ("--address", server.address)
        listed = installed.run("convserve", "list", "--json", *address, cwd=empty)
        assert {model["name"] for model in json.loads(listed.stdout)["models"]} == MODELS
        line = ("classify", SEVEN, "--model", "mnist", "--top-k", "1", "--json")
        for name in ("convserve", "convserve-client"):
            classified = json.loads(installed.run(name, *line, *address, cwd=empty).stdout)
            assert classified["pictures"][0]["classes"][0]["label"] == "7"
        health = installed.run("convserve", "health", *address, cwd=empty)
        assert (health.returncode, health.stdout) == (0, f"{server.address}: SERVING\n")
        assert server.terminate() == 0


def test_own_models_come_first(installed: Environment, empty: Path) -> None:
    """With a folder models there, its models are served, and not the package's."""
    (empty / "models").mkdir()
    (empty / "models" / "mine").symlink_to(ROOT / "models" / "mnist-tiny")
    script = f"""
from convserve.client import Client
with Client(sys.argv[1]) as client:
    print([model.name for model in client.list_models()])
    print(client.classify([{SEVEN!r}], model="mine", top_k=1)[0].classes[0].label)
"""
    with InstalledServer(installed, empty) as server:
        ended = installed.run("python", "-c", f"import sys{script}", server.address, cwd=empty)
    assert (ended.stdout, ended.stderr) == ("['mine']\n7\n", "")


def test_the_page_is_installed(installed: Environment, empty: Path) -> None:
    """The package's server has the page and the OpenAPI document, and shows a bundled model's report."""
    with InstalledServer(installed, empty, "--http-port", "0", "--models", "mnist-tiny") as server:
        page, document = httpx.get(f"{server.url}/"), httpx.get(f"{server.url}/openapi.json")
        report = httpx.get(f"{server.url}/page/models/mnist-tiny/1/report.json")
    assert "<title>" in page.text
    assert document.json()["openapi"].startswith("3.")
    assert report.json()["facts"]["name"] == "mnist-tiny"


def test_the_client_has_types(installed: Environment, empty: Path) -> None:
    """A type checker sees the client's types."""
    (empty / "caller.py").write_text(
        "from convserve.client import Client\n"
        'with Client("127.0.0.1:8001") as client:\n'
        "    reveal_type(client.list_models()[0].test_accuracy)\n"
        '    client.classify(["seven.png"], model=7)\n'
    )
    command = [sys.executable, "-m", "mypy", "--python-executable", installed.program("python"), "caller.py"]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=empty, timeout=300, check=False)
    revealed, wrong, _ = checked.stdout.splitlines()
    assert 'Revealed type is "float' in revealed.replace("builtins.", "")
    assert 'incompatible type "int"; expected "str"' in wrong


def test_version_needs_nothing_else(bare: Environment, empty: Path) -> None:
    """The version and the list of commands are told without importing what takes time, or is not there."""
    told = bare.run("convserve", "--version", cwd=empty)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"convserve {service.__version__}\n", "")
    explained = bare.run("convserve", "--help", cwd=empty)
    assert (explained.returncode, explained.stderr) == (0, "")
    names = re.findall(r"^  (\w+) ", explained.stdout, re.MULTILINE)
    assert {"serve", "classify", "list", "infer", "dataset", "top", "health", "pull", "export", "inspect"} <= set(names)


def test_missing_extras_are_named(bare: Environment, empty: Path) -> None:
    """A command whose extra is not installed says what it needs, and what brings it."""
    served, exported = (bare.run("convserve", name, cwd=empty) for name in ("serve", "export"))
    assert (served.returncode, served.stderr) == (
        1,
        "convserve: serve needs ONNX Runtime: pip install 'convserve[cpu]'; for NVIDIA's GPUs, gpu instead of cpu\n",
    )
    assert exported.returncode == 1
    assert "export needs PyTorch and ONNX, and ONNX Runtime: pip install 'convserve[train,cpu]'" in exported.stderr


def test_wrong_commands_are_refused(bare: Environment, empty: Path) -> None:
    """A command that is not there is refused with the nearest one."""
    refused = bare.run("convserve", "clasify", cwd=empty)
    assert refused.returncode == 2
    assert refused.stderr == "convserve: there is no command 'clasify'; did you mean 'classify'? --help shows all\n"


def test_usage_names_the_command(installed: Environment, empty: Path) -> None:
    """Each command explains itself by the words that run it."""
    for line in ("serve", "classify", "tokens new", "export"):
        explained = installed.run("convserve", *line.split(), "--help", cwd=empty)
        assert explained.stdout.startswith(f"usage: convserve {line} "), explained.stderr
    module = installed.run("python", "-m", "convserve.service.tokens", "--help", cwd=empty)
    assert module.stdout.startswith("usage: python -m convserve.service.tokens ")


def test_shells_complete_command_lines(installed: Environment, empty: Path) -> None:
    """Bash completes commands, options and files by the script that is written for it; other shells have theirs."""
    script = installed.run("convserve", "completion", "bash", cwd=empty)
    assert (script.returncode, script.stderr) == (0, "")
    (empty / "script").write_text(script.stdout)
    (empty / "picture.png").touch()
    expected = {"cl": "classify", "serve --models-d": "--models-dir", "classify pic": "picture.png"}
    complete = "source ./script; COMP_WORDS=(convserve $1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shtab_convserve"
    for line, completed in expected.items():
        shell = ["bash", "-c", f'{complete}; echo "${{COMPREPLY[@]}}"', "bash", line]
        ended = subprocess.run(shell, capture_output=True, text=True, cwd=empty, check=False)
        assert (ended.stdout, ended.stderr) == (f"{completed}\n", "")
    for shell_name in ("zsh", "fish"):
        assert "--models-dir" in installed.run("convserve", "completion", shell_name, cwd=empty).stdout


def test_editable_installs_import_from_anywhere(
    editable: Environment, distributions: Distributions, empty: Path
) -> None:
    """An editable install has the wheel's names, from the checkout's own files."""
    script = "import convserve.client, convserve.service, convserve.training; print(convserve.service.__file__)"
    ended = editable.run("python", "-c", script, cwd=empty)
    assert ended.stderr == ""
    assert Path(ended.stdout.strip()).resolve() == distributions.source.resolve() / "service" / "__init__.py"
    told = editable.run("convserve", "--version", cwd=empty)
    assert told.stdout == f"convserve {service.__version__}\n"
