"""The client for asyncio; ``sync`` has its twin for ordinary code."""

from collections.abc import Generator
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from service.client.connection import SERVICE, Connection
from service.client.pictures import Pictures
from service.client.results import ModelSummary, Result
from service.pb import image_classifier_pb2 as pb

T = TypeVar("T")


class AsyncClient(Connection):
    """As ``Client``, with the same arguments, for asyncio: `async with`, and methods to await.

    It belongs to the event loop in which it is first used. Files are read on that loop.
    """

    @cached_property
    def _channel(self) -> grpc.aio.Channel:  # opened at first use: it needs a running loop
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, self._options)
        return grpc.aio.secure_channel(self.target, self._credentials, self._options)

    async def classify(
        self, images: Pictures, *, model: str, top_k: int = 1, logits: bool = False, version: str = ""
    ) -> list[Result]:
        """As ``Client.classify``."""
        method = self._channel.unary_unary(
            f"/{SERVICE}/Classify", pb.ClassifyRequest.SerializeToString, pb.ClassifyResponse.FromString
        )
        send = partial(method, timeout=self._timeout_s, metadata=self._metadata)
        return await self._hold(
            self._classification(send, images, model=model, top_k=top_k, logits=logits, version=version)
        )

    async def list_models(self) -> list[ModelSummary]:
        """As ``Client.list_models``."""
        method = self._channel.unary_unary(
            f"/{SERVICE}/ListModels", pb.ListModelsRequest.SerializeToString, pb.ListModelsResponse.FromString
        )
        return await self._hold(self._listing(partial(method, timeout=self._timeout_s, metadata=self._metadata)))

    async def _hold(self, conversation: Generator[Any, Any, T]) -> T:
        try:
            call = next(conversation)
            while True:
                call = conversation.send(await call)
        except StopIteration as end:
            result: T = end.value
            return result
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            conversation.close()

    async def close(self) -> None:
        """Close the channel; calls under way are given up."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
