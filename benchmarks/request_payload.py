"""A request, and how long its response is: all that a load generator has to know of a call."""

import struct
from dataclasses import dataclass

FRAME_HEADER_BYTES = 5
"""Of a gRPC message on the wire: a flag and a length."""
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
CLASSIFY = "/convserve.v1.ImageClassifier/Classify"


@dataclass(frozen=True)
class RequestPayload:
    """Made only once the response has been checked (``calls.py``)."""

    path: str
    """Of the method."""
    request: bytes
    """The serialised message."""
    response_bytes: int
    """Length of the serialised response, the same each time."""

    @property
    def frame(self) -> bytes:
        """The request as gRPC puts it on the wire: not compressed, its length, itself."""
        return struct.pack(">BI", 0, len(self.request)) + self.request
