"""The rates of a model come from its report, and from nothing that is not its report."""

import json
import shutil
from pathlib import Path

from service.client import Client
from tests.servers import ROOT, ServerProcess

SHIPPED = ROOT / "models" / "mnist-tiny" / "1"
REPORT = json.loads((SHIPPED / "report.json").read_bytes())
NO_REPORTS = {
    "none": None,
    "cut": b'{"cost": {"bytes": 1',
    "list": b"[]",
    "deep": b"[" * 100_000,
    "words": json.dumps(REPORT | {"cost": REPORT["cost"] | {"images_per_s": {"1": "fast", "64": None}}}).encode(),
    "other": json.dumps(REPORT | {"cost": REPORT["cost"] | {"bytes": 1}}).encode(),
}


def test_rates_come_from_the_report(tmp_path: Path) -> None:
    """A model with its report has rates; beside a missing, broken or foreign report it has none, and is served."""
    for name, report in NO_REPORTS.items():
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        shutil.copy(SHIPPED / "model.onnx", folder)
        if report is not None:
            (folder / "report.json").write_bytes(report)
    shutil.copytree(SHIPPED, tmp_path / "whole" / "1")
    with ServerProcess(tmp_path) as server, Client(server.address) as client:
        rates = {model.name: (model.images_per_s_alone, model.images_per_s) for model in client.list_models()}
    whole = rates.pop("whole")
    assert whole == tuple(REPORT["cost"]["images_per_s"][batch] for batch in ("1", "64"))
    assert rates == dict.fromkeys(NO_REPORTS, (None, None))
