"""What a caller is told of a model that failed at its request: the first sentence of ONNX Runtime's message."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from ..errors import InvalidRequest, ModelFailed, RequestFailed, ServiceError
from ..runtime.endpoint import Endpoint
from ..runtime.run_error import RunError

log = structlog.get_logger(__name__)

HIDDEN = "the server's log has the details"


@dataclass(frozen=True)
class ModelErrors:
    """Logs the failures of models, and says what callers may read of them."""

    hide: bool = False
    """Tells callers no more than that it failed."""

    def for_caller(
        self, error: Exception, endpoint: Endpoint, request_id: str = "", shapes: Iterable[tuple[int, ...]] = ()
    ) -> Exception:
        """What answers a call whose request met this error; ``shapes`` are those of its inputs."""
        if not isinstance(error, ModelFailed):
            return error
        found = RunError.parse(str(error))
        empty = any(0 in shape for shape in shapes)
        kind: type[ServiceError] = InvalidRequest if empty or found.code == "INVALID_ARGUMENT" else RequestFailed
        log.error(
            "request failed",
            model=endpoint.name,
            version=endpoint.version,
            id=request_id,
            node=f"{found.node_kind} {found.node_name}".strip(),
            error=str(error),
        )
        reason = HIDDEN if self.hide else found.sentence or HIDDEN
        place = f" in a {found.node_kind} node" if found.node_kind and not self.hide else ""
        because = " with an input that has no elements" if empty else ""
        return kind(f"model '{endpoint.name}' cannot run this request{because}{place}: {reason}")
