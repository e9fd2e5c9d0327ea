"""Where a benchmark ran: figures without it mean nothing."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from service import __version__
from service.cpu import usable_cores
from service.http2 import is_compiled

PACKAGES = ("grpcio", "hpack", "numpy", "onnxruntime", "onnxruntime-gpu", "protobuf", "uvloop")
BUILT = "with" if "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")) else "without"
BUSY_LOAD = 0.5
"""Load average above which other work is sure to disturb the figures."""


def describe(program: str) -> dict[str, Any]:
    """Machine, cores, load, date, versions and command, ready for JSON; call it before the work begins."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _processor(),
        "gpus": _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "cores": usable_cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {
            "convserve": __version__,
            "commit": "".join(_output("git", "describe", "--always", "--dirty")) or "unknown",
            "python": f"{platform.python_version()}, {BUILT} --enable-optimizations",
            "request_path": "compiled" if is_compiled() else "Python",
            **{package: found for package in PACKAGES if (found := _version(package))},
            "h2load": "".join(_output("h2load", "--version")[:1]).removeprefix("h2load ") or "missing",
        },
        "command": f"{program} {shlex.join(sys.argv[1:])}".strip(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("CONVSERVE_") and not name.endswith(("_DIR", "_PYTHON", "_ENVOY"))  # places
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    """Empty where it is not installed: ONNX Runtime comes in one of two packages."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _output(program: str, *arguments: str) -> list[str]:
    """The lines that the program prints; none where it is not installed."""
    found = shutil.which(program)
    if found is None:
        return []
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False).stdout.splitlines()
