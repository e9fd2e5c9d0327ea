# MLServer lives in an environment of its own, where mypy does not look.
# mypy: ignore-errors
"""A model of MLServer that runs an ONNX file: loaded by MLServer itself, in its own environment."""

import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """The file of ``parameters.uri``, opened as convserve opens it."""

    async def load(self) -> bool:
        """Opens the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["SESSION_THREADS"])
        options.inter_op_num_threads = 1
        for key, value in (("intra_op.spin_duration_us", "20"), ("force_spinning_stop", "1")):
            options.add_session_config_entry(f"session.{key}", value)
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One run of what MLServer hands over, which is several requests where it batches."""
        images = NumpyCodec.decode_input(payload.inputs[0])
        arrays = self._session.run(self._outputs, {self._input: images})
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(self._outputs, arrays, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
