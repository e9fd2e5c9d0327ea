"""The files of a ``multipart/form-data`` body (RFC 7578), read in memory: nothing goes to a disk."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import InvalidRequest

MAX_PARTS = 4096
"""Of one form: each is a few turns of the parser's loop, which is Python's."""


class _Part:
    """A part that is being received."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.content = bytearray()


class _Reader:
    """Collects what the parser tells."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.ended = False
        self._name = self._value = b""

    def on_part_begin(self) -> None:
        """A part begins."""
        if len(self.parts) == MAX_PARTS:
            raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")
        self.parts.append(_Part())

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Some of its content has come."""
        self.parts[-1].content += memoryview(data)[start:end]

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """Some of a field's name has come."""
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Some of its value has come."""
        self._value += data[start:end]

    def on_header_end(self) -> None:
        """A field is complete."""
        self.parts[-1].headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_end(self) -> None:
        """All parts have come."""
        self.ended = True


def read_files(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    """The name and the content of each file; raises InvalidRequest."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("the Content-Type multipart/form-data has no boundary")
    reader = _Reader()
    callbacks = ("on_part_begin", "on_part_data", "on_header_field", "on_header_value", "on_header_end", "on_end")
    try:
        parser = MultipartParser(boundary, {name: getattr(reader, name) for name in callbacks})  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the body is no multipart/form-data: {error}") from error
    if not reader.ended:
        raise InvalidRequest("the body ends in the middle of its multipart/form-data")
    return [_file(part) for part in reader.parts]


def _file(part: _Part) -> tuple[str, bytes]:
    """A part that is a file; raises InvalidRequest for a mere field."""
    options = parse_options_header(part.headers.get(b"content-disposition", b""))[1]
    name = options.get(b"filename")
    if name is None:
        field = options.get(b"name", b"").decode(errors="replace")
        raise InvalidRequest(
            f"the form's field '{field[:80]}' is no file: each part is an image with a filename, "
            "and options are in the query (?model=…&top_k=…)"
        )
    return name.decode(errors="replace"), bytes(part.content)
