"""Where processor time goes, as two samplers tell it: perf by library, py-spy by Python function. Both are optional."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.errors import BenchmarkError

KINDS = (
    (
        "lock and hand-over",
        r"",
        r"",
        r"take_gil|drop_gil|PyThread_(acquire|release)|pthread_(cond|mutex)|futex|sem_(wait|post)",
    ),
    ("session.run", r"", r"onnxruntime", r""),
    ("protobuf", r"", r"_message\.", r""),
    ("NumPy", r"", r"_multiarray_umath|numpy", r""),
    ("network: grpc core", r"", r"cygrpc", r""),
    ("kernel", r"", r"kernel", r""),
    ("Python", r"", r"python|\.cpython-", r""),
    ("C library and the rest", r"", r"", r""),
)
"""What a sample is counted as: the first whose patterns are found in its thread, library and function."""
PERF_HZ, PY_SPY_HZ = 1999, 250
LIMIT_S = 120.0


def find(program: str) -> str | None:
    """The sampler's path, in this environment or on PATH; None where it is missing."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(program, path=beside) or shutil.which(program)


def libraries(perf: str, pid: int, seconds: float, folder: Path) -> dict[str, float]:
    """The share of each of KINDS in the process's time on a core; raises BenchmarkError where perf may not look."""
    data = folder / "perf.data"
    _run(perf, "record", "-q", "-F", str(PERF_HZ), "-p", str(pid), "-o", str(data), "--", "sleep", str(seconds))
    report = _run(
        *(perf, "report", "-i", str(data), "--stdio", "-q", "-F", "overhead,comm,dso,symbol", "-t", "|"),
        *("--percent-limit", "0"),
    )
    shares: dict[str, float] = defaultdict(float)
    for line in report.splitlines():
        cells = [cell.strip() for cell in line.split("|", 3)]
        if len(cells) == 4 and cells[0].endswith("%"):
            shares[_kind(*cells[1:])] += float(cells[0].removesuffix("%")) / 100
    return dict(shares)


def _kind(thread: str, library: str, function: str) -> str:
    return next(
        name
        for name, *patterns in KINDS
        if all(re.search(pattern, text) for pattern, text in zip(patterns, (thread, library, function), strict=True))
    )


def threads(py_spy: str, pid: int) -> dict[int, str]:
    """The names that Python gives to its threads, by the system's ids."""
    dumped = json.loads(_run(py_spy, "dump", "--json", "--pid", str(pid)))
    return {thread["os_thread_id"]: thread["thread_name"] for thread in dumped}


def functions(py_spy: str, pid: int, seconds: float, folder: Path) -> dict[str, dict[str, float]]:
    """For each Python thread, the share of each function, with what it calls in C, in the thread's running time."""
    raw = folder / "py-spy.txt"
    _run(
        *(py_spy, "record", "--pid", str(pid), "--duration", str(max(1, round(seconds))), "--threads"),
        *("--rate", str(PY_SPY_HZ), "--format", "raw", "--output", str(raw)),
    )
    samples: dict[str, Counter[str]] = defaultdict(Counter)
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        samples[re.sub(r"^thread \(\w+\): ", "", thread)][_function(frames[-1] if frames else "")] += int(count)
    return {
        thread: {function: count / counted.total() for function, count in counted.items()}
        for thread, counted in samples.items()
    }


def _function(frame: str) -> str:
    """``run (service/session.py:81)`` without the line, and a path without what all share."""
    return re.sub(r"\((?:.*site-packages/)?(.*?):\d+\)", r"(\1)", frame)


def _run(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{Path(command[0]).name} did not end within {LIMIT_S:.0f} s") from None
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines()
        raise BenchmarkError(f"{Path(command[0]).name} failed: {said[-1] if said else ran.returncode}")
    return ran.stdout
