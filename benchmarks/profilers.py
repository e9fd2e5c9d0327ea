"""Two samplers say where processor time goes: perf by library, py-spy by Python function. Both are optional."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.errors import BenchmarkError

KINDS = (
    ("lock and hand-over", r"", r"take_gil|drop_gil|PyThread_(acquire|release)|pthread_(cond|mutex)|futex|sem_"),
    ("session.run", r"onnxruntime", r""),
    ("protobuf", r"_message\.", r""),
    ("NumPy", r"_multiarray_umath|numpy", r""),
    ("network: grpc core", r"cygrpc", r""),
    ("kernel", r"kernel", r""),
    ("Python", r"python|\.cpython-", r""),
    ("C library and the rest", r"", r""),
)
"""What a sample is counted as: the first whose patterns are found in its library and function."""
PERF_HZ, PY_SPY_HZ = 1999, 250
LIMIT_S = 120.0


def find(program: str) -> str | None:
    """The sampler's path, in this environment or on PATH; None where it is missing."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(program, path=beside) or shutil.which(program)


def by_library(perf: str, pid: int, seconds: float, folder: Path) -> dict[str, float]:
    """The share of each of KINDS in the process's time on a core; raises BenchmarkError where perf may not look."""
    data = folder / "perf.data"
    _run(perf, "record", "-q", "-F", str(PERF_HZ), "-p", str(pid), "-o", str(data), "--", "sleep", str(seconds))
    report = _run(perf, *f"report -i {data} --stdio -q -F overhead,dso,symbol -t | --percent-limit 0".split(" "))
    shares: Counter[str] = Counter()
    for line in report.splitlines():
        cells = [cell.strip() for cell in line.split("|", 2)]
        if len(cells) == 3 and cells[0].endswith("%"):
            shares[_kind(*cells[1:])] += float(cells[0].removesuffix("%")) / 100  # type: ignore[assignment]
    return dict(shares)


def _kind(library: str, function: str) -> str:
    return next(
        name for name, libraries, functions in KINDS if re.search(libraries, library) and re.search(functions, function)
    )


def by_function(py_spy: str, pid: int, seconds: float, folder: Path) -> dict[str, float]:
    """The share of each function, with what it calls in C, in the running time of all Python threads."""
    raw = folder / "py-spy.txt"
    _run(
        *(py_spy, "record", "--pid", str(pid), "--duration", str(max(1, round(seconds)))),
        *("--rate", str(PY_SPY_HZ), "--format", "raw", "--output", str(raw)),
    )
    samples: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        samples[_function(stack.rpartition(";")[2])] += int(count)
    return {function: count / samples.total() for function, count in samples.items()}


def _function(frame: str) -> str:
    """``run (service/session.py:81)`` without the line, and a path without what all share."""
    return re.sub(r"\((?:.*site-packages/)?(.*?):\d+\)", r"(\1)", frame)


def _run(*command: str) -> str:
    name = Path(command[0]).name
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{name} did not end within {LIMIT_S:.0f} s") from None
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines()
        raise BenchmarkError(f"{name} failed: {said[-1] if said else ran.returncode}")
    return ran.stdout
