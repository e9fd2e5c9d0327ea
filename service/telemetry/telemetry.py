"""Puts together what is told of single calls, by the settings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ..api.open_inference import GIVEN_IDS
from ..errors import StartError
from ..rpc import Call, ImmediateCall, Methods, SlowCalls
from ..settings import Settings
from .observed_call import Observer, observed
from .request_log import RequestLog


@dataclass(frozen=True)
class Telemetry:
    """What transport and methods are given."""

    slow_calls: SlowCalls | None
    on_immediate: Callable[[ImmediateCall], None] | None
    choose: Callable[[Call], Sequence[Observer]] | None
    """The observers of a call; None: no call has any."""

    def observe(self, methods: Methods) -> Methods:
        """The same methods, observed where they are to be."""
        return methods if self.choose is None else observed(methods, self.choose)


@contextmanager
def telemetry(settings: Settings, token_name: Callable[[str | None], str]) -> Iterator[Telemetry]:
    """Ends the traces when left; raises StartError where they are not to be had."""
    requests = RequestLog(GIVEN_IDS, token_name)
    always: tuple[Observer, ...] = (requests.access,) if settings.access_log else ()
    with ExitStack() as stack:
        choose: Callable[[Call], Sequence[Observer]] | None = (lambda _: always) if always else None
        if settings.otlp_endpoint:
            try:
                from .traces import Traces  # not above: it is for those who want traces alone
            except ImportError as error:
                raise StartError(
                    f"--otlp-endpoint needs the extra 'otel': pip install convserve[otel] ({error})"
                ) from error
            traces = stack.enter_context(Traces(settings.otlp_endpoint, settings.server_name))
            sampled = (*always, traces.observe)
            choose = lambda call: sampled if traces.is_sampled(call) else always  # noqa: E731 - one line says it
        slow_ms = settings.slow_request_ms
        yield Telemetry(
            SlowCalls(slow_ms / 1e3, requests.slow) if slow_ms else None,
            requests.access_immediate if settings.access_log else None,
            choose,
        )
