"""Who may import whom, and that nothing calls home."""

import subprocess
import sys

import pytest

from tests.servers import ROOT

SERVICE = ["service.__main__", "service.server", "service.client.__main__", "service.health_check"]
TRAINING = [f"training.{path.stem}" for path in (ROOT / "training").glob("[a-z]*.py")]


def modules_after(statement: str) -> set[str]:
    """The modules that are loaded after this statement, in a fresh interpreter."""
    script = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    command = [sys.executable, "-c", script]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.parametrize("module", SERVICE)
def test_service_never_imports_torch(module: str) -> None:
    """Nothing in service reaches torch or training."""
    loaded = {name.partition(".")[0] for name in modules_after(f"import {module}")}
    assert "service" in loaded
    assert not loaded & {"torch", "torchvision", "onnx", "training"}


def test_the_client_needs_no_model_runtime() -> None:
    loaded = {name.partition(".")[0] for name in modules_after("import service.client")}
    assert not loaded & {"hpack", "onnxruntime", "structlog"}


def test_nothing_in_training_reaches_service() -> None:
    loaded = {name.partition(".")[0] for name in modules_after(f"import {', '.join(TRAINING)}")}
    assert "training" in loaded
    assert "service" not in loaded


@pytest.mark.parametrize("module", [*SERVICE, "training.export.pipeline"])
def test_telemetry_is_off_in_time(module: str) -> None:
    """Telemetry is off before ONNX Runtime can be imported.

    An import hook looks at the environment at the moment when onnxruntime is first asked for.
    """
    script = f"""
import os, sys
class Witness:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1", "onnxruntime is imported with telemetry on"
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
sys.meta_path.insert(0, Witness())
import {module}
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
