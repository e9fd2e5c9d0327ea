"""training stands alone, and nothing in it calls home."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import training

from .samples import ROOT


def imported(path: Path) -> set[str]:
    """Top-level packages that a source file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "training").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_module_imports_the_service(path: Path) -> None:
    """No module imports the service."""
    assert "service" not in imported(path)


def test_usage_data_is_off_at_import() -> None:
    """Usage data is off at the moment ONNX Runtime is loaded.

    The variable is looked at by a hook on imports, in a process that has it not.
    """
    program = (
        "import os, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Hook())\n"
        "import training.export.pipeline\n"
    )
    line = [sys.executable, "-c", program]
    environment = {"PATH": "/usr/bin:/bin"}
    finished = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.stdout == "1\n", finished.stderr


def test_usage_data_may_be_turned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who wants to send usage data may."""
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    importlib.reload(training)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
