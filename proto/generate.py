"""Generates service/pb from proto/. Run: python proto/generate.py [FOLDER] (needs grpcio-tools).

protoc writes absolute imports; these become relative ones, so that the package works under any name.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
PACKAGE = "service/pb"
DESCRIPTORS = "open_inference.binpb"  # the client loads these into a pool of its own


def generate(folder: Path) -> None:
    """Write the modules, their types and the descriptors into a folder; SystemExit where protoc refuses."""
    protos = [f"{PACKAGE}/{path.name}" for path in sorted(PROTO.glob("*.proto"))]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        languages = [f"--{language}_out={out}" for language in ("python", "pyi", "grpc_python")]
        _protoc(*languages, *protos)
        _protoc(f"--descriptor_set_out={out / PACKAGE / DESCRIPTORS}", f"{PACKAGE}/open_inference.proto")
        for made in (out / PACKAGE).glob("*.py"):
            module = PACKAGE.replace("/", ".")
            text = made.read_text().replace(f"from {module} import", "from . import")
            made.write_text(text.replace(f"'{module}.{made.stem}'", "__name__"))
        for made in (out / PACKAGE).iterdir():
            shutil.copyfile(made, folder / made.name)


def _protoc(*arguments: str) -> None:
    status = protoc.main(["protoc", f"-I{PACKAGE}={PROTO}", *arguments])
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO.parent / PACKAGE)
