"""Logging: structured lines on standard error, for people on a terminal and for machines elsewhere.

Lines are written by a thread of their own, from a bounded queue: a reader of the log that stands still, or has gone,
neither blocks nor breaks whatever logs. Lines that find the queue full are counted, and the count is told.
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

MAX_LINES = 10_000
"""Lines that may wait to be written."""
MAX_READ_BYTES = 2**16
CLOSE_S = 1.0
"""How long the end of the process may wait for lines to be written."""
LIMIT_PER_S = 5.0
"""Lines of one event that peers may cause each second, once a burst of LIMIT_BURST is used up."""
LIMIT_BURST = 20.0

Format = Literal["auto", "console", "json"]

_writers: "list[LogWriter]" = []
"""Those that were configured in this process; one but in tests."""


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own; ``write`` never blocks and never raises."""

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        """Lines that were not written: the queue was full, or the descriptor could not be written to."""
        self.descriptor = descriptor
        """Where lines are written to."""
        self.for_people = False
        """True where lines are no JSON."""
        self._told = 0
        self._lines: deque[str] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        self._relay: threading.Thread | None = None

    def capture_stderr(self) -> None:
        """Logs what native libraries write to standard error, ONNX Runtime and gRPC say: each line becomes one of ours.

        The log itself goes on to where standard error went until now.
        """
        self.descriptor = os.dup(2)
        readable, writable = os.pipe()
        os.dup2(writable, 2)
        os.close(writable)
        self._relay = threading.Thread(target=_relay, args=(readable,), name="stderr", daemon=True)
        self._relay.start()

    def write(self, line: str) -> None:
        """Queues a line, without its end."""
        with self._wake:
            if len(self._lines) >= MAX_LINES:
                self.dropped += 1
                return
            self._lines.append(line)
            self._wake.notify()

    def close(self) -> None:
        """Waits until all lines are written, those of standard error too, but no longer than CLOSE_S for either."""
        if self._relay is not None:
            os.dup2(self.descriptor, 2)  # closes the pipe, which the relay then reads to its end
            _join(self._relay)
        with self._wake:
            self._closed = True
            self._wake.notify()
        _join(self._thread)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._lines and not self._closed:
                    self._wake.wait()
                if not self._lines:
                    return
                line = self._lines.popleft()
            self._put(line)
            if self.dropped != self._told and len(self._lines) < MAX_LINES // 2:
                # Only counted here: the lines that were lost are told of once there is room again.
                self._told, dropped = self.dropped, self.dropped - self._told
                structlog.get_logger(__name__).warning("log lines dropped", lines=dropped, dropped_in_all=self.dropped)

    def _put(self, line: str) -> None:
        """Writes a line and its end in one call, so that the lines of several processes do not mix."""
        data = memoryview((line + "\n").encode(errors="backslashreplace"))
        try:
            while data:
                try:
                    data = data[os.write(self.descriptor, data) :]
                except BlockingIOError:  # the pipe is non-blocking, and full: half a line would spoil the next
                    time.sleep(0.01)
        except OSError:  # its reader has gone, or its disk is full
            self.dropped += 1

    # As structlog's own WriteLogger: a method for each level.
    msg = log = debug = info = warning = warn = error = critical = exception = fatal = failure = err = write


class _Handler(logging.Handler):
    """Sends the standard library's records the same way."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Formats and queues a record."""
        try:
            self._writer.write(self.format(record))
        except Exception:
            self._writer.dropped += 1


class _RateLimit:
    """Drops lines that peers cause too often: those with ``peer=True``, by event."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float, int]] = {}  # tokens, at which time, lines dropped since
        self._lock = threading.Lock()

    def __call__(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if not event.pop("peer", False):
            return event
        name, now = str(event.get("event")), time.monotonic()
        with self._lock:
            tokens, at, dropped = self._buckets.get(name, (LIMIT_BURST, now, 0))
            tokens = min(LIMIT_BURST, tokens + (now - at) * LIMIT_PER_S)
            if tokens < 1:
                self._buckets[name] = tokens, now, dropped + 1
                raise structlog.DropEvent
            self._buckets[name] = tokens - 1, now, 0
        return {**event, "suppressed": dropped} if dropped else event


def configure(log_format: Format, level: str, worker: int | None = None, stream: TextIO | None = None) -> LogWriter:
    """Sets up structlog for the process, and sends the standard library's logging the same way.

    ``worker``: the number that each line carries, where this process is one of several. A line logged with
    ``peer=True`` is limited in rate.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    writer = LogWriter(stream.fileno())
    _writers.append(writer)
    atexit.register(writer.close)
    shared: list[structlog.typing.Processor] = [
        _RateLimit(),
        structlog.contextvars.merge_contextvars,
        *([] if worker is None else [_numbered(worker)]),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Never the values of local variables: they are the callers' data.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    writer.for_people = log_format == "console" or (log_format == "auto" and terminal)
    ending: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)]
        if writer.for_people
        else [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer(default=repr)]
    )
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    handler = _Handler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending]
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    return writer


def tell(event: str, fields: dict[str, object], as_text: Callable[[dict[str, object]], str]) -> None:
    """Logs what is meant for people: where they read the log, as text of several lines."""
    log = structlog.get_logger(__name__)
    if any(writer.for_people for writer in _writers):
        log.info(as_text(fields))
    else:
        log.info(event, **fields)


def dropped_lines() -> int:
    """Returns how many lines of this process's log could not be written."""
    return sum(writer.dropped for writer in _writers)


def log_uncaught() -> None:
    """Has exceptions that nothing catches logged, as all others are: each is one line, with its traceback."""
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_of_thread


def close() -> None:
    """Writes what is left, within bounds: for those who end the process without the interpreter's own end."""
    for writer in _writers:
        writer.close()


def _log_uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    structlog.get_logger(__name__).critical("the process ends by an exception", exc_info=error)


def _log_uncaught_of_thread(arguments: threading.ExceptHookArgs) -> None:
    thread = arguments.thread.name if arguments.thread else "unknown"
    structlog.get_logger(__name__).error("a thread failed", thread=thread, exc_info=arguments.exc_value)


def _join(thread: threading.Thread) -> None:
    with contextlib.suppress(RuntimeError):  # it is this thread, which has failed
        thread.join(CLOSE_S)


def _relay(readable: int) -> None:
    rest = b""
    with contextlib.suppress(OSError):
        while data := os.read(readable, MAX_READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _log_line(line)
            rest = rest[-MAX_READ_BYTES:]
    _log_line(rest)


def _log_line(line: bytes) -> None:
    if text := line.decode(errors="backslashreplace").strip():
        structlog.get_logger("stderr").warning("standard error", text=text, peer=True)


def _numbered(worker: int) -> structlog.typing.Processor:
    """Adds the worker's number: by a processor, for context variables do not reach threads."""

    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> dict[str, Any]:
        return {**event, "worker": worker}

    return add
