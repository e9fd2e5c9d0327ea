"""Other servers and runtimes that a user can install, on the same model files and under the same load."""

import json
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import numpy as np

from benchmarks import bare, calls
from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.foreign import ENVIRONMENTS, JOIN_ROWS, JOIN_S, SCRIPTS, SERVERS
from benchmarks.load import BULK, SINGLE
from benchmarks.rounds import Taken
from benchmarks.samples import Figures
from benchmarks.section import Line, Section, Table, plain, spread

MODELS, IMAGES = ("mnist-tiny", "cifar10-cnn"), (1, 64)
OPENVINO_MODEL = "cifar10-cnn"
LIMIT_S = 120.0


def measure(bench: Bench) -> Section:
    """Raises BenchmarkError where a peer that was named does not start or answers wrongly."""
    remarks: list[str] = []
    taken = _servers(bench, remarks) | _openvino(bench, remarks)
    lines, rows = [], []
    for name, figures in taken.items():
        asked, _, who = name.partition(": ")
        unit = "requests_per_s" if "requests_per_s" in figures else "images_per_s"
        rows.append((asked, who, unit.replace("_per_s", "/s"), spread(figures[unit])))
        ours = taken[f"{asked}: {OURS[unit]}"][unit]
        if who != OURS[unit]:
            because = f"{plain(ours.median)} to {plain(figures[unit].median)} {unit.replace('_per_s', '/s')}"
            lines.append(Line(f"{asked}: {OURS[unit]} / {who}", ours / figures[unit], because=because))
    tables = [Table("The same load", ("asked", "who", "unit", "rate"), rows)] if rows else []
    return Section("peers", "Peers", lines, tables, remarks=remarks, figures=taken)


OURS = {"requests_per_s": "convserve", "images_per_s": "onnxruntime"}
"""What a peer is compared with: a server with ours, a runtime with the one that ours uses."""


def _servers(bench: Bench, remarks: list[str]) -> Taken:
    with ExitStack() as stack:
        addresses: dict[str, str] = {}
        workloads = [bench.workload(model) for model in MODELS]
        for name, server in SERVERS.items():
            if name not in bench.peers.pythons:
                remarks.append(_left_out(server.name, name))
                continue
            bench.note(f"starting {server.name}")
            addresses[server.name] = stack.enter_context(server.start(bench, bench.peers.pythons[name], workloads))
            remarks.append(
                f"{server.name}: {server.how}, {bench.threads} threads, joins up to {JOIN_ROWS} rows within "
                f"{JOIN_S * 1e3:g} ms."
            )
        if bench.peers.triton is None:
            remarks.append("Triton was left out: name the address of one that serves the same models with --triton.")
        else:
            addresses["Triton"] = bench.peers.triton
        if not addresses:
            return {}
        addresses["convserve"] = bench.serve(stack, ",".join(MODELS)).address
        measurements: dict[str, Callable[[], Figures]] = {}
        for model in MODELS:
            for images in IMAGES:
                for who, address in addresses.items():
                    exchange = calls.infer(address, bench.workload(model, images))
                    load = bench.load(address, exchange)
                    concurrency = SINGLE if images == 1 else BULK
                    measurements[f"{model} x {images}: {who}"] = load.for_about(bench.seconds, concurrency)
        return bench.take(measurements)


def _openvino(bench: Bench, remarks: list[str]) -> Taken:
    if "openvino" not in bench.peers.pythons:
        remarks.append(_left_out("OpenVINO's runtime", "openvino"))
        return {}
    workload = bench.workload(OPENVINO_MODEL)
    pictures = bench.folder / "pictures.npy"
    np.save(pictures, workload.model.pictures[: max(bare.BATCHES)])
    script = SCRIPTS / "openvino_session.py"
    seconds = bench.seconds / 4
    command = [str(bench.peers.pythons["openvino"]), str(script), str(workload.model.path), str(pictures)]
    command += [str(bench.threads), str(seconds)]
    ours = bare.measurement(workload.model, bare.best_batch(workload.model), bench.seconds)
    name = f"{OPENVINO_MODEL}, no server"
    both = bench.take({"onnxruntime": ours, "openvino": partial(_run, command)})
    version = both["openvino"].pop("version")
    number = int(version.median)
    remarks.append(
        f"OpenVINO {number // 100}.{number % 100}, bare, {bench.threads} threads, its best of several batch sizes, in "
        "the precisions that this processor computes in; beside the bare session of ONNX Runtime."
    )
    taken: Taken = {f"{name}: onnxruntime": both["onnxruntime"]}
    return taken | {f"{name}: OpenVINO {how}": {"images_per_s": rate} for how, rate in both["openvino"].items()}


def _run(command: list[str]) -> Figures:
    """Images per second by precision, and the version as a number, 2026.4 as 202604."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if ran.returncode:
        raise BenchmarkError(f"OpenVINO did not run: {ran.stderr.strip().splitlines()[-1:]}")
    figures = json.loads(ran.stdout)
    year, release = figures.pop("version").split(".")[:2]
    return {**figures, "version": float(year) * 100 + float(release)}


def _left_out(who: str, name: str) -> str:
    return f"{who} was left out: name the interpreter of an environment with {ENVIRONMENTS[name]} with --{name}-python."
