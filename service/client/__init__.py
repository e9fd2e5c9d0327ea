"""The client: images in, labels with probabilities out; or tensors in, tensors out.

    with Client("127.0.0.1:8001") as client:
        for result in client.classify(["seven.png", "three.png"], model="mnist"):
            print(result)
        print(client.infer("mnist", {"images": np.zeros((1, 28, 28, 1), np.uint8)})["probabilities"])

``convserve classify`` and others offer the same on the command line. Needs neither torch nor ONNX Runtime.
"""

from .aio import AsyncClient
from .errors import (
    AnswerLate,
    ClientError,
    LimitReached,
    ModelNotFound,
    ModelRefused,
    RequestRefused,
    ServerFailure,
    ServerUnavailable,
    UnusableDataset,
    UnusablePicture,
    UnusableTensor,
)
from .pictures import Picture, Pictures
from .results import (
    Classification,
    ImageError,
    ModelList,
    ModelSummary,
    Prediction,
    Result,
    TensorInfo,
    TensorModel,
    TensorOutputs,
    UnservedModel,
)
from .sync import Client

__all__ = [
    "AnswerLate",
    "AsyncClient",
    "Classification",
    "Client",
    "ClientError",
    "ImageError",
    "LimitReached",
    "ModelList",
    "ModelNotFound",
    "ModelRefused",
    "ModelSummary",
    "Picture",
    "Pictures",
    "Prediction",
    "RequestRefused",
    "Result",
    "ServerFailure",
    "ServerUnavailable",
    "TensorInfo",
    "TensorModel",
    "TensorOutputs",
    "UnservedModel",
    "UnusableDataset",
    "UnusablePicture",
    "UnusableTensor",
]
