"""What a caller is told of a model that failed at its request: the first sentence of ONNX Runtime's message."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from ..errors import InvalidRequest, ModelFailed, RequestFailed, ServiceError
from ..runtime.endpoint import Endpoint

log = structlog.get_logger(__name__)

HIDDEN = "the server's log has the details"
MAX_SENTENCE = 300
STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : (?P<code>\w+) : ")
NODE = re.compile(
    r"Non-zero status code returned while running (?P<kind>\S+) node\. Name:'(?P<name>.*?)' Status Message: "
)
PLACE = re.compile(
    r"^\S+\.\w+:\d+ (?:.* was false\.\s*|[^()]*::[^()]*\([^()]*\)(?: const)?(?: \[with .*?\])? )?", re.DOTALL
)
"""Where in its own source code ONNX Runtime found the fault, and the condition that did not hold."""
PATH = re.compile(r"(?:\b[A-Za-z]:)?(?:[/\\][\w.+@~-]+){2,}")
SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")


@dataclass(frozen=True)
class RunError:
    """A message of ONNX Runtime, taken apart."""

    code: str
    node_kind: str
    node_name: str
    sentence: str
    """The first one, without places in source code and paths of files."""

    @classmethod
    def parse(cls, message: str) -> "RunError":
        """Reads any message; what it does not have is empty."""
        status = STATUS.match(message)
        text = message[status.end() :] if status else message
        node = NODE.search(text)
        text = PLACE.sub("", text[node.end() :] if node else text).strip()
        sentence = PATH.sub("…", SENTENCE_END.split(text, maxsplit=1)[0])[:MAX_SENTENCE]
        return cls(status["code"] if status else "", *((node["kind"], node["name"]) if node else ("", "")), sentence)


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
