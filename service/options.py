"""Settings as a frozen dataclass: read from the command line over the environment over defaults, and checked.

By itself, because a library for it takes longer to import than ONNX Runtime (0.18 s and 20 MB; CPython 3.11, two cores
of a Zen 3), in each worker. A field is an option; the string below it is its help. Knows no single option.
"""

import argparse
import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin

T = TypeVar("T")
FilePath = NewType("FilePath", Path)
"""A path to a file that is there."""
TRUE, FALSE = {"1", "true", "t", "yes", "y", "on"}, {"0", "false", "f", "no", "n", "off"}


class SettingsError(Exception):
    """Settings that cannot be: one sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def Field(  # noqa: N802 - as pydantic calls it
    *, default: T, ge: float | None = None, le: float | None = None, repeatable: bool = False
) -> T:
    """A field of this default, and bounds; ``repeatable``: given several times, the values are joined by commas."""
    chosen: T = dataclasses.field(default=default, metadata={"ge": ge, "le": le, "repeatable": repeatable})
    return chosen


def read_options(
    kind: type[T],
    parsers: Mapping[str, Callable[[str], Any]],
    prefix: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    prog: str,
) -> T:
    """The settings of this kind; ``prefix`` begins their environment variables. Raises SettingsError.

    ``parsers`` make more of an option's text than its type says, and raise ValueError. The names of what was given, by
    whichever way, are in the field ``given`` of the result. Ends the process for ``--help``, which names it ``prog``.
    """
    fields = options_of(kind)
    texts = {name.upper(): value for name, value in environment.items()}
    given: dict[str, str | bool] = {name: texts[key] for name in fields if (key := (prefix + name).upper()) in texts}
    helps = descriptions(kind) if {"-h", "--help"} & set(arguments) else {}  # the source is read for it alone
    given |= vars(_parser(kind, prog, helps).parse_args(list(arguments)))
    values: dict[str, Any] = {}
    problems = []
    for name, text in given.items():
        try:
            values[name] = _value(fields[name], parsers.get(name), text)
        except ValueError as error:
            problems.append(f"--{_kebab(name)} {error}")
    if problems:
        raise SettingsError(problems)
    try:
        return kind(**values | {"given": frozenset(values)})
    except ValueError as error:
        raise SettingsError([str(error)]) from error


def checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Makes a parser that gives the text itself, once `parse` has taken it; raises ValueError."""

    def check(text: str) -> str:
        parse(text)
        return text

    return check


def options_of(kind: type[Any]) -> dict[str, "dataclasses.Field[Any]"]:
    """The fields that are options, by name."""
    return {field.name: field for field in dataclasses.fields(kind) if field.name != "given"}


def descriptions(kind: type[Any]) -> dict[str, str]:
    """The string below each field of the class, by the field's name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - for the type checker
    found, name = {}, ""
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and name:
            found[name], name = inspect.cleandoc(str(statement.value.value)), ""
        else:
            name = ""
    return found


def make_parser(kind: type[Any], prog: str) -> argparse.ArgumentParser:
    """The command line, with the help of each option; what it parses are texts."""
    return _parser(kind, prog, descriptions(kind))


def _parser(kind: type[Any], prog: str, helps: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog,
        description=kind.__doc__,
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in options_of(kind).items():
        about = f"{helps.get(name, '')} (default: {field.default})".replace("%", "%%")
        if field.type is bool:
            parser.add_argument(f"--{_kebab(name)}", action=argparse.BooleanOptionalAction, help=about)
        else:
            action = "append" if field.metadata.get("repeatable") else "store"
            parser.add_argument(f"--{_kebab(name)}", metavar=_metavar(field.type), help=about, action=action)
    return parser


class _HelpFormatter(argparse.HelpFormatter):
    """Leaves the description's paragraphs as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002 - argparse's
        return inspect.cleandoc(text)


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"{{{','.join(get_args(kind))}}}"
    plain = _plain(kind)
    return str(getattr(plain, "__supertype__", plain).__name__)


def _plain(kind: Any) -> Any:
    """``T`` of ``T | None``."""
    return get_args(kind)[0] if get_origin(kind) in (types.UnionType, Union) else kind


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _value(field: "dataclasses.Field[Any]", parse: Callable[[str], Any] | None, given: object) -> Any:
    """The value of a field by its type, within its bounds; raises ValueError."""
    if isinstance(given, bool):
        return given
    text = ",".join(given) if isinstance(given, list) else str(given)
    value = parse(text) if parse else _typed(_plain(field.type), text)
    least, most = field.metadata.get("ge"), field.metadata.get("le")
    if least is not None and not value >= least:
        raise ValueError(f"Input should be greater than or equal to {least}")
    if most is not None and not value <= most:
        raise ValueError(f"Input should be less than or equal to {most}")
    return value


def _typed(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            *first, last = (repr(choice) for choice in get_args(kind))
            raise ValueError(f"Input should be {', '.join(first)} or {last}")
        return text
    if kind is bool:
        if text.lower() not in TRUE | FALSE:
            raise ValueError(f"Input should be a valid boolean, not {text!r}")
        return text.lower() in TRUE
    if kind in (int, float):
        return number(kind, text)
    if kind is FilePath and not Path(text).is_file():
        raise ValueError(f"Path does not point to a file: {text!r}")
    return kind(text) if kind is not FilePath else Path(text)


def number(kind: type[int] | type[float], text: str) -> float:
    """The text as such a number; raises ValueError."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"Input should be a valid {'integer' if kind is int else 'number'}, not {text!r}") from None
