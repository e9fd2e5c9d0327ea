"""The RPCs that the client calls, by name, with their messages."""

from dataclasses import dataclass
from typing import Any

from ..pb import image_classifier_pb2 as pb
from . import open_inference as oip
from .connection import INFERENCE_SERVICE, SERVICE


@dataclass(frozen=True)
class Rpc:
    """One unary RPC."""

    path: str
    request: Any
    """The class of its request."""
    response: Any
    """The class of its response."""


CLASSIFY = Rpc(f"/{SERVICE}/Classify", pb.ClassifyRequest, pb.ClassifyResponse)
LIST_MODELS = Rpc(f"/{SERVICE}/ListModels", pb.ListModelsRequest, pb.ListModelsResponse)
INFER = Rpc(f"/{INFERENCE_SERVICE}/ModelInfer", oip.ModelInferRequest, oip.ModelInferResponse)
METADATA = Rpc(f"/{INFERENCE_SERVICE}/ModelMetadata", oip.ModelMetadataRequest, oip.ModelMetadataResponse)
INDEX = Rpc(f"/{INFERENCE_SERVICE}/RepositoryIndex", oip.RepositoryIndexRequest, oip.RepositoryIndexResponse)
STATISTICS = Rpc(f"/{INFERENCE_SERVICE}/ModelStatistics", oip.ModelStatisticsRequest, oip.ModelStatisticsResponse)
