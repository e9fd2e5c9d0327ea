# OpenVINO lives in an environment of its own, where mypy does not look.
# mypy: ignore-errors
"""OpenVINO's runtime alone, in its own environment: a line of JSON with the images per second of each precision.

``python openvino_session.py MODEL.onnx PICTURES.npy THREADS SECONDS``, for each batch size the best of
which counts. bf16 only where the processor computes in it.
"""

import json
import sys
import time

import numpy as np
import openvino

BATCHES = (32, 64, 128, 256)


def main(model_path: str, pictures_path: str, threads: str, seconds: str) -> None:
    """Prints ``{"f32": …, "bf16": …, "version": …}``."""
    core = openvino.Core()
    model = core.read_model(model_path)
    pictures = np.load(pictures_path)
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    rates = {}
    for precision, capability in (("f32", "FP32"), ("bf16", "BF16")):
        if capability not in offered:
            continue
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": int(threads)}
        request = core.compile_model(model, "CPU", options).create_infer_request()
        rates[precision] = max(_rate(request, pictures[:batch], float(seconds)) for batch in BATCHES)
    print(json.dumps({**rates, "version": openvino.__version__}))


def _rate(request, pictures, seconds):
    """Images per second of one run after the other."""
    request.infer({0: pictures})
    runs, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or not runs:
        request.infer({0: pictures})
        runs += 1
    return runs * len(pictures) / passed


if __name__ == "__main__":
    main(*sys.argv[1:])
