"""Text, whole numbers, truth values, lists and mappings → YAML, for people to read.

Each scalar is written as JSON, which YAML 1.2 contains, so nothing can be taken for another type. A library for YAML
would be a dependency of the service for this one page; the tests compare with such a library.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Data: TypeAlias = "str | int | bool | Mapping[str, Data] | Sequence[Data]"
PLAIN_KEY = re.compile(r"[a-z]{2}[a-z0-9_]+")
"""Keys that need no quotes, unless they are WORDS; ``y``, ``n``, ``on`` and ``no`` are too short."""
WORDS = {"null", "true", "false", "yes", "off", "nan", "inf"}


def yaml_text(data: "Data") -> str:
    """The text of a mapping or a list, in block style."""
    return "\n".join(_lines(data, 0)) + "\n"


def _lines(data: "Data", depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _entry(f"{indent}{_key(key)}:", value, depth)
    elif isinstance(data, Sequence) and not isinstance(data, str) and data:
        for value in data:
            yield from _item(indent, value, depth)
    else:
        yield indent + _scalar(data)


def _entry(head: str, value: "Data", depth: int) -> Iterator[str]:
    if _is_block(value):
        yield head
        yield from _lines(value, depth + 1)
    else:
        yield f"{head} {_scalar(value)}"


def _item(indent: str, value: "Data", depth: int) -> Iterator[str]:
    first, *rest = _lines(value, depth + 1)
    yield f"{indent}- {first.lstrip(' ')}"
    yield from rest


def _is_block(value: "Data") -> bool:
    return bool(value) and isinstance(value, Mapping | Sequence) and not isinstance(value, str)


def _key(key: str) -> str:
    return key if PLAIN_KEY.fullmatch(key) and key not in WORDS else json.dumps(key)


def _scalar(value: "Data") -> str:
    """A string, number or truth value, or an empty mapping or list, as JSON."""
    return json.dumps(value)
