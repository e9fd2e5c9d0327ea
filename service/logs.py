"""Logging: structured lines on standard error, for people on a terminal and for machines elsewhere."""

import logging
import sys
from typing import Literal

import structlog


def configure(log_format: Literal["auto", "console", "json"], level: str, worker: int | None = None) -> None:
    """Sets up structlog for the process, and sends the standard library's logging the same way.

    ``worker``: the number that each line carries, where this process is one of several.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        *([] if worker is None else [_numbered(worker)]),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Never the values of local variables: they are the callers' data.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ending: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # Writes a line and its end in one call, so that the lines of several processes do not mix.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending]
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def _numbered(worker: int) -> structlog.typing.Processor:
    """Adds the worker's number: by a processor, for context variables do not reach threads."""

    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, "worker": worker}

    return add
