"""How a model's runs are made on the CPU: by rule from a row's cost, or as ``convserve tune`` measured.

A measurement is a file beside the model, for this file, this machine and this version of ONNX Runtime. The rules'
figures: benchmarks, two cores of a Zen 3; a multiply-accumulate (MAC) is float32's, and four of int8's.
"""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
import structlog

FILE_NAME = "tuning.json"
# Waking a second thread takes longer than it saves. Microseconds of a run in one thread and in two: mnist-tiny (62 k
# MACs a row) with 16 rows 93 and 115; cifar10-tiny (483 k) with 4 rows 62 and 103; cifar10-lenet (652 k) with 1 row 42
# and 73. From some 250 us on, two are as fast or faster.
ONE_THREAD_MACS = 2e6
# Images/s of two runs of one thread and of one run of two, 64 rows: mnist-tiny 405,000 and 236,000, cifar10-lenet
# 65,300 and 53,500, cifar10-cnn-int8 (2.9 M) 24,900 and 21,600, cifar10-cnn (11 M) 9,050 and 8,870. Above, the gain is
# not worth a second session's memory.
PARALLEL_ROW_MACS = 3e6
# Each run costs its hand-over between threads, so short ones are joined further, while their values stay in the caches.
# Processor time of a row of mnist-tiny in runs of 64, 128 and 256 rows: 3.4, 3.4 and 5.7 us.
JOINED_MACS = 12e6

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tuning:
    """How runs are made."""

    preferred_batch_size: int
    """Most rows of several requests in one run."""
    one_thread_rows: int
    """Up to so many rows are run by one thread although there are more."""
    instance_count: int
    """Runs at a time, each by one thread where there are several."""


def by_rule(row_macs: float, threads: int, max_batch_rows: int, least: int) -> Tuning:
    """What suits rows of so many multiply-accumulates, infinite where that is not known; ``least`` may always join."""
    row_macs = max(row_macs, 1.0)
    most = max_batch_rows if row_macs * max_batch_rows <= JOINED_MACS else _power_of_two(JOINED_MACS / row_macs)
    joined = min(max_batch_rows, max(least, most))
    parallel = threads > 1 and row_macs <= PARALLEL_ROW_MACS
    return Tuning(
        preferred_batch_size=joined,
        one_thread_rows=min(_power_of_two(ONE_THREAD_MACS / row_macs), max_batch_rows) if parallel else 0,
        instance_count=threads if parallel else 1,
    )


def _power_of_two(most: float) -> int:
    """The largest power of two up to ``most``; 0 below 1."""
    return 2 ** int(math.log2(most)) if most >= 1 else 0


def measured(model: Path, provider: str, threads: int) -> Tuning | None:
    """What was measured for this file on this machine; None where nothing was, or for another."""
    path = model.with_name(FILE_NAME)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        given = {key: str(value) for key, value in content["measured_on"].items()}
        tuning = _read(content["tuning"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("tuning ignored", file=str(path), reason=f"it cannot be read: {error!r}")
        return None
    here = circumstances(model, provider, threads)
    other = [f"{key} {given.get(key)}, here {value}" for key, value in here.items() if given.get(key) != value]
    if other:
        remedy = f"measure again with convserve tune {model.parent.parent.name}, or delete the file"
        log.warning("tuning ignored", file=str(path), reason=f"it was measured for {'; '.join(other)}", remedy=remedy)
        return None
    return tuning


def write(model: Path, provider: str, threads: int, tuning: Tuning, runs: list[dict[str, Any]]) -> Path:
    """Writes what was measured beside the model, at once or not at all."""
    path = model.with_name(FILE_NAME)
    content = {"tuning": asdict(tuning), "measured_on": circumstances(model, provider, threads), "runs": runs}
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)
    return path


def circumstances(model: Path, provider: str, threads: int) -> dict[str, str]:
    """What a measurement depends on."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "onnxruntime": str(ort.__version__),
        "provider": provider,
        "sha256": digest,
    }


def _read(given: dict[str, object]) -> Tuning:
    """Raises ValueError or KeyError where it has none, or impossible, numbers."""
    bounds = {"preferred_batch_size": (1, 65536), "one_thread_rows": (0, 65536), "instance_count": (1, 1024)}
    for name, (least, most) in bounds.items():
        value = given[name]
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} is {value!r}, {least} to {most} are possible")
    return Tuning(**{name: given[name] for name in bounds})  # type: ignore[arg-type]  # integers, as was checked


def _processor() -> str:
    """The processor's name, as Linux tells it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
