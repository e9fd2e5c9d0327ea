"""``config.pbtxt`` beside a model's versions, as far as it is read: Triton's, in protobuf's text format.

https://protobuf.dev/reference/protobuf/textformat-spec/. What is not read is told, field by field: the file itself says
most of it (names, types and shapes), and options decide the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelRejected

FILE_NAME = "config.pbtxt"
MOST_BYTES = 2**20
TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<sign>[{}<>\[\]:,;])|(?P<word>[^\s{}<>\[\]:,;"'#]+)"""
)
READ = {
    "name",
    "platform",
    "backend",
    "max_batch_size",
    "default_model_filename",
    "input.name",
    "input.format",
    "output.name",
    "output.label_filename",
    "version_policy.latest.num_versions",
    "version_policy.latest",
    "version_policy.all",
    "version_policy.specific.versions",
}
BRACKETS = {"{": "}", "<": ">"}
FORMATS = {"FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"}
RUNTIMES = {"", "onnxruntime", "onnxruntime_onnx"}

Message = dict[str, list[Any]]


@dataclass(frozen=True)
class ModelConfigFile:
    """What a model's config.pbtxt asks for; without one, nothing."""

    max_batch_size: int | None = None
    """Most rows of a request; 0: requests do not share runs."""
    file_name: str = "model.onnx"
    labels: tuple[str, ...] = ()
    """Of the first output that names a file of them, a label in each line."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Of inputs, by name."""
    version_policy: str = ""
    """As --version-policy has it."""
    unread: tuple[str, ...] = ()
    """The fields that are not read."""


def read_config(folder: Path) -> ModelConfigFile:
    """The configuration in this model folder; raises ModelRejected where it cannot be what the model needs."""
    path = folder / FILE_NAME
    if not path.is_file():
        return ModelConfigFile()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelRejected(f"{path} is larger than {MOST_BYTES} bytes")
        message, _ = _message(_tokens(path.read_text(encoding="utf-8")), 0)
        return _read(message, folder)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ModelRejected(f"{path} cannot be read: {error}") from error


def _read(message: Message, folder: Path) -> ModelConfigFile:
    name = str(_last(message, "name", folder.name))
    if name != folder.name:
        raise ValueError(f"it names the model '{name}', its folder is '{folder.name}'")
    runtime = str(_last(message, "backend", "")) or str(_last(message, "platform", ""))
    if runtime not in RUNTIMES:
        raise ValueError(f"it asks for '{runtime}', and this server runs ONNX files by onnxruntime")
    size = message.get("max_batch_size")
    formats = {
        str(_last(tensor, "name", "")): str(tensor["format"][-1])
        for tensor in _messages(message, "input")
        if "format" in tensor
    }
    unknown = sorted(set(formats.values()) - FORMATS)
    if unknown:
        raise ValueError(f"format {unknown[0]} is none of {', '.join(sorted(FORMATS))}")
    files = [str(tensor["label_filename"][-1]) for tensor in _messages(message, "output") if "label_filename" in tensor]
    file_name = str(_last(message, "default_model_filename", "") or "model.onnx")
    if "/" in file_name:
        raise ValueError(f"default_model_filename '{file_name}' is no name of a file")
    return ModelConfigFile(
        max_batch_size=None if size is None else int(size[-1]),
        file_name=file_name,
        labels=_labels(folder, files[0]) if files else (),
        formats=formats,
        version_policy=_policy(message),
        unread=tuple(sorted(set(_fields(message, "")) - READ)),
    )


def _labels(folder: Path, name: str) -> tuple[str, ...]:
    if "/" in name or name.startswith("."):
        raise ValueError(f"label_filename '{name}' is no file beside it")
    if not (folder / name).is_file():
        raise ValueError(f"label_filename '{name}' is no file beside it")
    return tuple((folder / name).read_text(encoding="utf-8").splitlines())


def _policy(message: Message) -> str:
    for policy in _messages(message, "version_policy"):
        for latest in _messages(policy, "latest"):
            return f"latest:{int(_last(latest, 'num_versions', 1))}"
        for specific in _messages(policy, "specific"):
            return ",".join(str(int(number)) for number in specific.get("versions", []))
        return "all"
    return ""


def _fields(message: Message, prefix: str) -> list[str]:
    found = []
    for name, values in message.items():
        inner = [value for value in values if isinstance(value, dict)]
        found += [nested for value in inner for nested in _fields(value, f"{prefix}{name}.")]
        if len(inner) < len(values) or not any(inner):
            found.append(prefix + name)
    return found


def _last(message: Message, name: str, default: Any) -> Any:
    return message.get(name, [default])[-1]


def _messages(message: Message, name: str) -> list[Message]:
    return [value for value in message.get(name, []) if isinstance(value, dict)]


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1} cannot be parsed")
        if match.lastgroup:
            tokens.append(match[0])
        at = match.end()
    return tokens


def _message(tokens: list[str], at: int, end: str = "") -> tuple[Message, int]:
    """The fields up to ``end``, and where it is; raises IndexError or ValueError."""
    found: Message = {}
    while at < len(tokens) or end:
        token = tokens[at]
        if token == end:
            return found, at + 1
        if token in (",", ";"):
            at += 1
            continue
        if not re.fullmatch(r"\w+", token):
            raise ValueError(f"{token!r} is where a field's name is expected")
        at += 1
        at += tokens[at] == ":"
        values, at = _values(tokens, at)
        found.setdefault(token, []).extend(values)
    return found, at


def _values(tokens: list[str], at: int) -> tuple[list[Any], int]:
    if tokens[at] != "[":
        value, at = _value(tokens, at)
        return [value], at
    values, at = [], at + 1
    while tokens[at] != "]":
        if tokens[at] == ",":
            at += 1
            continue
        value, at = _value(tokens, at)
        values.append(value)
    return values, at + 1


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    token = tokens[at]
    if token in BRACKETS:
        return _message(tokens, at + 1, BRACKETS[token])
    if token[0] not in "\"'":
        return token, at + 1
    parts = []
    while at < len(tokens) and tokens[at][0] in "\"'":  # strings beside each other are one
        parts.append(re.sub(r"\\(.)", r"\1", tokens[at][1:-1]))
        at += 1
    return "".join(parts), at
