# Ray lives in an environment of its own, where mypy does not look.
# mypy: ignore-errors
"""Ray Serve with the Open Inference Protocol's ModelInfer, in its own environment, until it is told to end.

``python ray_serve.py HTTP_PORT PORT THREADS NAME=MODEL.onnx…``, with the repository on PYTHONPATH for its
messages.
"""

import signal
import sys
import threading

import numpy as np
import onnxruntime as ort
import ray
from ray import serve
from ray.serve.config import gRPCOptions

from service.pb import open_inference_pb2 as pb

PREFERRED_ROWS, MAX_DELAY_S = 64, 0.001
SERVICER = "service.pb.open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


@serve.deployment(max_ongoing_requests=1024)
class Models:
    """One replica that runs every model, joining requests of one image."""

    def __init__(self, threads: int, paths: dict[str, str]) -> None:
        """Opens the sessions as convserve opens them."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for key, value in (("intra_op.spin_duration_us", "20"), ("force_spinning_stop", "1")):
            options.add_session_config_entry(f"session.{key}", value)
        self._sessions = {
            name: ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for name, path in paths.items()
        }

    async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802 - the RPC's name
        """Serves one request."""
        if request.inputs[0].shape[0] == 1:
            return await self._joined(request)
        return self._run([request])[0]

    @serve.batch(max_batch_size=PREFERRED_ROWS, batch_wait_timeout_s=MAX_DELAY_S)
    async def _joined(self, requests: list[pb.ModelInferRequest]) -> list[pb.ModelInferResponse]:
        return self._run(requests)

    def _run(self, requests: list[pb.ModelInferRequest]) -> list[pb.ModelInferResponse]:
        """All of one model: the load is."""
        session = self._sessions[requests[0].model_name]
        images = np.concatenate(
            [np.frombuffer(each.raw_input_contents[0], np.uint8).reshape(each.inputs[0].shape) for each in requests]
        )
        outputs = [output.name for output in session.get_outputs()]
        arrays = session.run(outputs, {session.get_inputs()[0].name: images})
        responses, at = [], 0
        for request in requests:
            rows = request.inputs[0].shape[0]
            response = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
            for name, array in zip(outputs, arrays, strict=True):
                part = array[at : at + rows]
                response.outputs.add(name=name, datatype="FP32", shape=part.shape)
                response.raw_output_contents.append(part.tobytes())
            responses.append(response)
            at += rows
        return responses


def main(http_port: str, port: str, threads: str, *models: str) -> None:
    """Serves until SIGTERM."""
    stop = threading.Event()
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, object_store_memory=10**8)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(http_port)},
        grpc_options=gRPCOptions(port=int(port), grpc_servicer_functions=[SERVICER]),
        logging_config={"log_level": "WARNING"},
    )
    serve.run(Models.bind(int(threads), dict(each.split("=", 1) for each in models)))
    signal.signal(signal.SIGTERM, lambda *_: stop.set())  # Ray has set one of its own
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
