"""A plugin of pytest by which tests that import ``service`` get an installed, compiled ``convserve.service``."""

import importlib
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Finder(MetaPathFinder, Loader):
    """Finds each module of ``service`` where ``convserve.service`` has it: one module with two names."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the interpreter's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "service":
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"convserve.{spec.name}")
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run; its own name is what relative imports in it go by.
        name = module.__name__.removeprefix("convserve.")
        spec = module.__spec__ = self._specs[name]
        assert spec is not None
        module.__loader__ = spec.loader


sys.path.insert(0, sysconfig.get_path("purelib"))  # before the checkout, whose `convserve` has links to its sources
if not importlib.import_module("convserve.service.http2").is_compiled():
    raise ImportError("this environment has no compiled wheel")
sys.meta_path.insert(0, _Finder())
