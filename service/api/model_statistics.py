"""ModelStatistics: what the models have done in all workers, those that have ended too.

Triton: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from ..batching.totals import Totals
from ..errors import InvalidRequest
from ..pb import open_inference_pb2 as pb
from ..rpc import Call, Methods
from ..runtime.endpoint import Endpoint
from ..runtime.process_report import ProcessReport
from ..runtime.repository import Repository
from . import model_reports
from .outcomes import refusing

PATH = "/inference.GRPCInferenceService/ModelStatistics"


class ModelStatistics:
    """Answers ModelStatistics: of one version, of all versions of a model, or of all models."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    @property
    def methods(self) -> Methods:
        """The RPC by its full name. Its answer waits for the other workers' figures; the receiving thread does not."""
        return Methods(deferred={PATH: refusing(self._statistics)}, immediate={})

    def _statistics(self, call: Call) -> None:
        try:
            message = pb.ModelStatisticsRequest.FromString(call.payload)
        except DecodeError as error:
            raise InvalidRequest("the message is not a ModelStatisticsRequest") from error
        chosen = self._chosen(message)

        def answer(report: ProcessReport) -> None:
            told = [
                model_reports.model_statistics(
                    endpoint, report.totals.get(f"{endpoint.name}/{endpoint.version}", Totals())
                )
                for endpoint in chosen
            ]
            call.respond(pb.ModelStatisticsResponse(model_stats=told).SerializeToString())

        self._repository.gather(answer)

    def _chosen(self, message: pb.ModelStatisticsRequest) -> Sequence[Endpoint]:
        if not message.name:
            return list(self._repository)
        found = self._repository.find(message.name, message.version)
        if message.version:
            return [found]
        return [endpoint for endpoint in self._repository if endpoint.name == message.name]
