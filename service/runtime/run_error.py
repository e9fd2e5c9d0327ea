"""A message of ONNX Runtime, taken apart: callers, the log and the index tell its first sentence."""

import re
from dataclasses import dataclass

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

    @property
    def told(self) -> str:
        """The sentence, behind the node that it is about."""
        if not self.node_kind:
            return self.sentence
        name = f" '{self.node_name}'" if self.node_name else ""
        return f"{self.node_kind} node{name}: {self.sentence}"
