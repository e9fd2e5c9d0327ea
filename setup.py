"""Compiles the request path by mypyc where the environment variable CONVSERVE_COMPILE is 1.

Everything else about the package is in pyproject.toml, the list of these modules too. Without the variable the package
is pure Python; with it, building needs a C compiler and Python's headers.
"""

import os
import tomllib
from pathlib import Path

from setuptools import setup

PROJECT = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())
COMPILED = PROJECT["tool"]["convserve"]["compiled"]
MYPY = "mypy[mypyc]==2.4.1"
"""Which has mypyc."""
GROUP = "convserve.service.request_path"
"""The library that they all are in, beside a small file for each."""
OPTIONS = (
    "--config-file=",  # ours is for people: stricter, and of the checkout's names
    "--no-site-packages",  # the same code whatever is installed beside
    "--ignore-missing-imports",
    "--follow-imports=silent",
)


def _requested() -> bool:
    value = os.environ.get("CONVSERVE_COMPILE", "0")
    if value not in {"0", "1"}:
        raise SystemExit(f"CONVSERVE_COMPILE is {value!r}: 1 compiles the request path, 0 does not")
    return value == "1"


if not _requested():
    setup()
else:
    try:
        from mypyc.build import mypycify
    except ImportError:  # asked for what the build requires, which the next call has
        setup(setup_requires=[MYPY])
    else:
        files = [f"convserve/service/{module}.py" for module in COMPILED]
        setup(
            setup_requires=[MYPY],
            ext_modules=mypycify([*OPTIONS, *files], opt_level="3", debug_level="0", group_name=GROUP),
        )
