"""Files of the format before hashes are written anew, as the same function with the same figures."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.runtime.providers import choose
from service.runtime.session import Session
from training import onnx_file
from training.export.publish import publish_variant

from .samples import run
from .trained import Trained, read


def outdated(path: Path) -> None:
    """Make a file, and the report beside it, as they were in format 1."""
    model = onnx.load(path)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    del entries["convserve.sha256"], entries["convserve.preprocessing"]
    entries["convserve.format"] = "1"
    probe = json.loads(entries["convserve.probe"])
    probe.pop("onnxruntime", None)
    entries["convserve.probe"] = onnx_file.to_json(probe)
    del model.metadata_props[:]
    helper.set_model_props(model, entries)
    path.write_bytes(model.SerializeToString())
    report = path.with_name("report.json")
    if report.exists():
        content = json.loads(report.read_text("utf-8"))
        content["facts"]["format"] = "1"
        del content["facts"]["preprocessing"]
        report.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def models_dir(trained: Trained, tmp_path: Path) -> Path:
    """A models folder with an fp32 file, its report and its int8 form, all of format 1, and a file of others."""
    folder = tmp_path / "models"
    fp32, int8 = (folder / name / "1" / "model.onnx" for name in ("mnist-tiny", "mnist-tiny-int8"))
    shutil.copytree(trained.path.parent, fp32.parent)
    publish_variant("int8", trained.data, fp32, int8)
    outdated(fp32)
    outdated(int8)
    (folder / "other" / "1").mkdir(parents=True)
    onnx.save(onnx.ModelProto(), folder / "other" / "1" / "model.onnx")
    return folder


def renew(folder: Path, data_dir: Path) -> tuple[int, str]:
    """What the command gives and prints."""
    ran = run("training.export", "--renew", "--models-dir", folder, "--data-dir", data_dir)
    return ran.returncode, ran.stdout + ran.stderr


def test_old_files_are_written_anew(models_dir: Path, data_dir: Path) -> None:
    """The graph stays, the proof is complete, reports follow, and a second time there is nothing to do."""
    paths = [models_dir / name / "1" / "model.onnx" for name in ("mnist-tiny", "mnist-tiny-int8")]
    graphs = [onnx.load(path).graph for path in paths]
    status, text = renew(models_dir, data_dir)
    assert (status, text.splitlines()) == (
        0,
        [
            "mnist-tiny: renewed",
            "mnist-tiny-int8: renewed",
            "other: left as it is, because it is not a file of ours",
        ],
    )
    assert [onnx.load(path).graph for path in paths] == graphs
    for path in paths:
        session = Session(path, choose(["cpu"]), threads=1, max_batch_rows=8)
        session.metadata.require_proof()
        assert session.probe_deviation is not None
    assert "onnxruntime" in json.loads(onnx_file.read_metadata(paths[1])["probe"])
    report = read(paths[0])
    assert (report["facts"]["format"], report["cost"]["bytes"]) == ("2", paths[0].stat().st_size)
    contents = [path.read_bytes() for path in paths]
    assert renew(models_dir, data_dir)[1].startswith("mnist-tiny: up to date\nmnist-tiny-int8: up to date\n")
    assert [path.read_bytes() for path in paths] == contents


def test_damaged_old_files_are_kept(models_dir: Path, data_dir: Path) -> None:
    """A file whose old probe fails is no original: it is named, and left as it is."""
    path = models_dir / "mnist-tiny" / "1" / "model.onnx"
    model = onnx.load(path)
    weights = next(tensor for tensor in model.graph.initializer if "linear" in tensor.name)
    weights.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(weights)), weights.name))
    onnx.save(model, path)
    content = path.read_bytes()
    status, text = renew(models_dir, data_dir)
    assert status == 1
    assert "mnist-tiny: the probe's logits and ONNX Runtime differ by" in text
    assert path.read_bytes() == content


def test_renewing_takes_no_names(tmp_path: Path) -> None:
    """All files of a folder are renewed, so a name beside the option is a mistake."""
    ran = run("training.export", "mnist-tiny", "--renew", "--models-dir", tmp_path)
    assert ran.returncode == 2
    assert "give it no NAME" in ran.stderr
