"""The client for asyncio; ``sync`` has its twin for ordinary code."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import numpy.typing as npt

from .calls import Call, Calls, Conversation, Pause
from .pictures import Pictures
from .results import ModelList, ModelSummary, Result, TensorOutputs
from .rpcs import Rpc

T = TypeVar("T")


class AsyncClient(Calls):
    """As ``Client``, with the same arguments, for asyncio: `async with`, and methods to await.

    It belongs to the event loop in which it is first used. Files are read on that loop.
    """

    @cached_property
    def _channel(self) -> grpc.aio.Channel:  # opened at first use: it needs a running loop
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, self._options)
        return grpc.aio.secure_channel(self.target, self._credentials, self._options)

    async def classify(
        self,
        images: Pictures,
        *,
        model: str,
        top_k: int = 1,
        logits: bool = False,
        version: str | int = "",
        shrink: bool = True,
    ) -> list[Result]:
        """As ``Client.classify``."""
        return await self._hold(
            self._classification(images, model=model, top_k=top_k, logits=logits, version=version, shrink_photos=shrink)
        )

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        outputs: Sequence[str] = (),
        version: str | int = "",
    ) -> TensorOutputs:
        """As ``Client.infer``."""
        return await self._hold(self._inference(model, inputs, outputs, version))

    async def list_models(self) -> list[ModelSummary]:
        """As ``Client.list_models``."""
        return await self._hold(self._listing())

    async def list_all_models(self) -> ModelList:
        """As ``Client.list_all_models``."""
        return await self._hold(self._catalogue())

    def _send(self, rpc: Rpc, request: Any, timeout_s: float, *, wait_for_ready: bool = False) -> Call:
        method = self._channel.unary_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        return method(request, timeout=timeout_s, wait_for_ready=wait_for_ready, metadata=self._metadata)

    async def _hold(self, conversation: Conversation[T]) -> T:
        try:
            step = next(conversation)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = conversation.send(None)
                    continue
                try:
                    answer = await step
                except grpc.RpcError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
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
