"""What every gRPC server has besides its own methods, on both transports: health and reflection."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ..errors import InvalidRequest, UnknownModel
from .call import ImmediateMethod

HEALTH = health.SERVICE_NAME
REFLECTIONS = (reflection.SERVICE_NAME, reflection.SERVICE_NAME.replace("v1alpha", "v1"))
"""The same messages under two names: grpcurl and newer clients ask for v1 first."""

MAX_NAME = 1_024
"""Characters of a name that is watched: it is kept for as long as the watch, and no model has so long a one."""

State = Callable[[Message], None]


class Health:
    """Which names are serving, and the watches of them.

    The library's own service keeps every name that was ever watched, known or not: 40 watches of long names cost
    20 MB for good.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], None]) -> None:
        """``call_soon`` has something done by the thread in which all but `set_ready` is called."""
        self._call_soon = call_soon
        self._serving: dict[str, bool] = {}
        self._watches: dict[str, set[State]] = {}
        self.check = ImmediateMethod(health_pb2.HealthCheckRequest, self._check)

    def set_ready(self, serving: Mapping[str, bool]) -> None:
        """Tells all who ask, from now on, and soon those who watch; any thread may call it."""
        self._serving.update(serving)
        names = tuple(serving)
        self._call_soon(lambda: self._tell(names))

    def watch(self, name: str, tell: State) -> None:
        """Tells the state of a name now, and each time it is set, until `unwatch`; raises InvalidRequest."""
        if len(name) > MAX_NAME:
            raise InvalidRequest(
                f"a health watch takes a name of at most {MAX_NAME:,} characters, and this one has {len(name):,}"
            )
        self._watches.setdefault(name, set()).add(tell)
        tell(self._state(name))

    def unwatch(self, name: str, tell: State) -> None:
        """Ends a watch; once more does nothing."""
        watches = self._watches.get(name)
        if watches is not None:
            watches.discard(tell)
            if not watches:
                del self._watches[name]

    def _tell(self, names: Iterable[str]) -> None:
        for name in names:
            for tell in tuple(self._watches.get(name, ())):
                tell(self._state(name))

    def _state(self, name: str) -> Message:
        states = health_pb2.HealthCheckResponse
        known = {None: states.SERVICE_UNKNOWN, True: states.SERVING, False: states.NOT_SERVING}
        state: Message = states(status=known[self._serving.get(name)])
        return state

    def _check(self, request: health_pb2.HealthCheckRequest) -> Message:
        if request.service not in self._serving:
            raise UnknownModel(f"nothing is known by the name {request.service[:200]!r}")
        return self._state(request.service)


class Reflection:
    """What is served here, for clients that have no .proto file."""

    def __init__(self, services: Sequence[str]) -> None:
        _add_reflection_v1()
        self._servicer: Any = reflection.ReflectionServicer(services)  # its stubs know no generators

    def answer(self, question: Message) -> Iterable[Message]:
        """Returns what answers one question."""
        answers: Iterable[Message] = self._servicer.ServerReflectionInfo(iter([question]), None)
        return answers


def service_names(own: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of all services, these among them."""
    return (*own, HEALTH, *REFLECTIONS)


def parse(kind: type[Message], payload: bytes) -> Any:
    """Returns a message of this kind; raises InvalidRequest."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidRequest(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from error


def _add_reflection_v1() -> None:
    """Describes v1, of which the library has v1alpha only, so that it can be asked about."""
    pool = descriptor_pool.Default()
    name = reflection_pb2.DESCRIPTOR.name.replace("v1alpha", "v1")
    try:
        pool.FindFileByName(name)
    except KeyError:
        text = reflection_pb2.DESCRIPTOR.serialized_pb
        file = descriptor_pb2.FileDescriptorProto.FromString(text)
        file.name, file.package = name, file.package.replace("v1alpha", "v1")
        for message in file.message_type:
            for field in message.field:
                if field.type_name:  # of messages, not of numbers
                    field.type_name = field.type_name.replace("v1alpha", "v1")
        for service in file.service:
            for method in service.method:
                method.input_type = method.input_type.replace("v1alpha", "v1")
                method.output_type = method.output_type.replace("v1alpha", "v1")
        pool.AddSerializedFile(file.SerializeToString())
