"""The client: pictures in, labels with probabilities out.

    with Client("127.0.0.1:8001") as client:
        for result in client.classify(["seven.png", "three.png"], model="mnist"):
            print(result)

``python -m service.client`` offers the same on the command line. Needs neither torch nor ONNX Runtime.
"""

from service.client.aio import AsyncClient
from service.client.errors import (
    AnswerLate,
    ClientError,
    LimitReached,
    ModelNotFound,
    RequestRefused,
    ServerFailure,
    ServerUnavailable,
    UnusableDataset,
    UnusablePicture,
)
from service.client.pictures import Picture, Pictures
from service.client.results import Classification, ImageError, ModelSummary, Prediction, Result
from service.client.sync import Client

__all__ = [
    "AnswerLate",
    "AsyncClient",
    "Classification",
    "Client",
    "ClientError",
    "ImageError",
    "LimitReached",
    "ModelNotFound",
    "ModelSummary",
    "Picture",
    "Pictures",
    "Prediction",
    "RequestRefused",
    "Result",
    "ServerFailure",
    "ServerUnavailable",
    "UnusableDataset",
    "UnusablePicture",
]
