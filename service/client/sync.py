"""The client for ordinary code; ``aio`` has its twin for asyncio."""

from collections.abc import Generator
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from service.client.connection import SERVICE, Connection
from service.client.pictures import Pictures
from service.client.results import ModelSummary, Result
from service.pb import image_classifier_pb2 as pb

T = TypeVar("T")


class Client(Connection):
    """Asks a server to classify pictures; threads may share it. Use it in a ``with`` block, or close it.

    - ``target``: the server's address, "host:port", or a name with one of gRPC's schemes, "unix:" or "dns:" say
    - ``timeout_s``: time limit of each call, its repeated attempts included; a call that ends in
      UNAVAILABLE is repeated, up to four times within about two seconds, and one that finds the queue full when the
      server says that there is room
    - ``tls``: False for plain text, True to trust the system's authorities, a PEM file of those to trust, or
      gRPC's own credentials, for a server that asks clients for a certificate say
    - ``max_message_mib``: largest message in either direction; 64 is the server's own default
    - ``max_call_images``: a longer list is sent as several calls
    - ``calls_in_flight``: how many of those calls are under way at once
    - ``token``: the bearer token that each call carries, for a server that asks for one

    Raises ClientError where the ``tls`` file cannot be read, ValueError where the address is none or a number
    is not above zero.
    """

    @cached_property
    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.target, self._options)
        return grpc.secure_channel(self.target, self._credentials, self._options)

    def classify(
        self, images: Pictures, *, model: str, top_k: int = 1, logits: bool = False, version: str = ""
    ) -> list[Result]:
        """Classify one picture or many.

        - ``images``: paths, bytes of image files, uint8 arrays [H, W] or [H, W, C] with C of 1, 3 or 4,
          Pillow pictures, mixed at will; or one array [N, H, W, C]
        - ``model``: a name from ``list_models``
        - ``top_k``: how many classes each picture gets
        - ``logits``: also return the logits of all classes
        - ``version``: of the model; empty for the highest

        Returns one result for each picture, in order: an ``ImageError`` where the server could not use it.

        Raises UnusablePicture where a picture cannot be read on this side (if it is missing, a folder or too
        large, nothing has been sent), another ClientError where a call failed: the rest is given up then.
        """
        method = self._channel.unary_unary(
            f"/{SERVICE}/Classify", pb.ClassifyRequest.SerializeToString, pb.ClassifyResponse.FromString
        )
        send = partial(method.future, timeout=self._timeout_s, metadata=self._metadata)
        return self._hold(self._classification(send, images, model=model, top_k=top_k, logits=logits, version=version))

    def list_models(self) -> list[ModelSummary]:
        """Ask for the models that can be used, in the server's order. Raises ClientError."""
        method = self._channel.unary_unary(
            f"/{SERVICE}/ListModels", pb.ListModelsRequest.SerializeToString, pb.ListModelsResponse.FromString
        )
        return self._hold(self._listing(partial(method.future, timeout=self._timeout_s, metadata=self._metadata)))

    def _hold(self, conversation: Generator[Any, Any, T]) -> T:
        try:
            call = next(conversation)
            while True:
                call = conversation.send(call.result())
        except StopIteration as end:
            result: T = end.value
            return result
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            conversation.close()

    def close(self) -> None:
        """Close the channel; calls under way are given up."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
