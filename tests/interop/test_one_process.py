"""tritonclient and our client in one process, in either order of their imports."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.interop.test_tritonclient import TRITON_PYTHON
from tests.servers import ROOT, ServerProcess

PROGRAM = """
import json, sys
import numpy as np
sys.path.append(sys.argv[2])
{imports}
images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
tensor = triton.InferInput("images", list(images.shape), "UINT8")
tensor.set_data_from_numpy(images)
theirs = triton.InferenceServerClient(sys.argv[1]).infer("mnist-tiny", [tensor]).as_numpy("logits")
with Client(sys.argv[1]) as client:
    ours = client.infer("mnist-tiny", {{"images": images}})["logits"]
    classes = client.classify(images, model="mnist-tiny", logits=True)
print(json.dumps([theirs.tolist(), ours.tolist(), [list(each.logits) for each in classes]]))
"""
IMPORTS = ("import tritonclient.grpc as triton", "from service.client import Client")


@pytest.mark.parametrize("order", [1, -1], ids=["tritonclient first", "tritonclient last"])
def test_both_clients_share_a_process(native_server: ServerProcess, order: int) -> None:
    """Both import, whichever comes first, and both get the same logits."""
    site = next(TRITON_PYTHON.parent.parent.glob("lib/python*/site-packages"))
    program = PROGRAM.format(imports="\n".join(IMPORTS[::order]))
    command = [sys.executable, "-c", program, native_server.address, str(site)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    theirs, ours, classes = json.loads(ran.stdout)
    assert theirs == ours
    assert np.allclose(classes, ours)
