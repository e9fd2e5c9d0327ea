"""Compiles the request path by mypyc where the environment variable CONVSERVE_COMPILE is 1.

Everything else about the package is in pyproject.toml, the list of these modules too. Without the variable the package
is pure Python; with it, building needs a C compiler and Python's headers.
"""

import os
import sys
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
COMPILED = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["convserve"]["compiled"]
PINNED = (HERE / "constraints.txt").read_text().split()
MYPY = next(line.replace("mypy==", "mypy[mypyc]==") for line in PINNED if line.startswith("mypy=="))
"""Which has mypyc."""
LIBRARY = "request_path"
"""The library that they all are in, beside a small file for each."""
OPTIONS = (
    "--config-file=",  # ours is for people: stricter, and of the checkout's names
    "--no-site-packages",  # the same code whatever is installed beside
    "--ignore-missing-imports",
    "--follow-imports=silent",
)
COMPILE = os.environ.get("CONVSERVE_COMPILE", "0")
PACKAGES = {"0": None, "1": "convserve.service", "checkout": "service"}
"""By whose name the modules know each other: the wheel's, or that of a checkout, for ``build_ext --inplace``."""


def _compile(package: str) -> None:
    try:
        from mypyc.build import mypycify
    except ImportError:
        if "egg_info" not in sys.argv:
            raise SystemExit(f"compiling needs mypyc, which is not installed here: pip install '{MYPY}'") from None
        setup(setup_requires=[MYPY])  # a builder asks what the build needs, and installs it before the next call
        return
    files = [f"{package.replace('.', '/')}/{module}.py" for module in COMPILED]
    modules = mypycify([*OPTIONS, *files], opt_level="3", debug_level="0", group_name=f"{package}.{LIBRARY}")
    setup(ext_modules=modules)


if COMPILE not in PACKAGES:
    raise SystemExit(f"CONVSERVE_COMPILE is {COMPILE!r}: 1 compiles the request path, 0 does not")
package = PACKAGES[COMPILE]
if package is None:
    setup()
else:
    _compile(package)
