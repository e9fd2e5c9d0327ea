"""The client for ordinary code; ``aio`` has its twin for asyncio."""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy.typing as npt

from .calls import Call, Calls, Conversation, Pause
from .pictures import Pictures
from .results import ModelList, ModelSummary, Result, TensorOutputs
from .rpcs import Rpc

T = TypeVar("T")


class Client(Calls):
    """Asks a server for labels or tensors; threads may share it. Use it in a ``with`` block, or close it.

    - ``target``: the server's address, "host:port", or a name with one of gRPC's schemes, "unix:" or "dns:" say
    - ``timeout_s``: time limit of each call, its repeated attempts included. A call that ends in UNAVAILABLE is
      repeated for about two seconds; where the server has answered this client before, until the time limit. One that
      finds the queue full is repeated when the server says that there is room
    - ``tls``: False for plain text, True to trust the system's authorities, a PEM file of those to trust, or
      gRPC's own credentials, for a server that asks clients for a certificate say
    - ``max_message_mib``: largest message in either direction; 64 is the server's own default
    - ``max_call_images``: a longer list is sent as several calls
    - ``calls_in_flight``: how many of those calls are under way at once
    - ``token``: the bearer token that each call carries, for a server that asks for one

    It can be pickled, and handed to a process that multiprocessing spawns: the copy connects for itself.

    Raises ClientError where the ``tls`` file cannot be read, ValueError where the address is none or a number
    is not above zero.
    """

    @cached_property
    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.target, self._options)
        return grpc.secure_channel(self.target, self._credentials, self._options)

    def classify(
        self,
        images: Pictures,
        *,
        model: str,
        top_k: int = 1,
        logits: bool = False,
        version: str | int = "",
        shrink: bool = True,
    ) -> list[Result]:
        """Classify one image or many.

        - ``images``: paths, bytes of image files, uint8 arrays [H, W] or [H, W, C] with C of 1, 3 or 4, tensors of
          torch or others on the CPU (uint8, also [C, H, W]), Pillow images, mixed at will; or one array
          [N, H, W, C], or tensor [N, C, H, W]
        - ``model``: a name from ``list_models``
        - ``top_k``: how many classes each image gets
        - ``logits``: also return the logits of all classes
        - ``version``: of the model, a number; empty for the highest
        - ``shrink``: decode a JPEG file of more than 4 MiB here, at the reduced size at which the server would, and
          send the pixels where they are fewer bytes than the file

        Returns one result for each image, in order: an ``ImageError`` where the server could not use it.

        Raises UnusablePicture where an image cannot be read on this side (if it is missing, a folder or too
        large, nothing has been sent), another ClientError where a call failed: the rest is given up then.
        """
        return self._hold(
            self._classification(images, model=model, top_k=top_k, logits=logits, version=version, shrink_photos=shrink)
        )

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        outputs: Sequence[str] = (),
        version: str | int = "",
    ) -> TensorOutputs:
        """Run a model on tensors, by the Open Inference Protocol.

        - ``inputs``: by name, arrays or what NumPy makes arrays of, tensors of torch say; the datatype is the
          array's, text is BYTES, and BF16 needs ml_dtypes
        - ``outputs``: names of those that are wanted; none are all
        - ``version``: of the model, a number; empty for the highest

        Returns arrays by name: BF16 as float32, BYTES as str.

        Raises UnusableTensor where an input cannot be sent, another ClientError where the call failed.
        """
        return self._hold(self._inference(model, inputs, outputs, version))

    def list_models(self) -> list[ModelSummary]:
        """Ask for the models that classify images, in the server's order. Raises ClientError."""
        return self._hold(self._listing())

    def list_all_models(self) -> ModelList:
        """Ask for every model: classifiers, those of tensors, and those that are not served. Raises ClientError."""
        return self._hold(self._catalogue())

    def _send(self, rpc: Rpc, request: Any, timeout_s: float, *, wait_for_ready: bool = False) -> Call:
        method = self._channel.unary_unary(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
        return method.future(request, timeout=timeout_s, wait_for_ready=wait_for_ready, metadata=self._metadata)

    def _hold(self, conversation: Conversation[T]) -> T:
        try:
            step = next(conversation)
            while True:
                step = _next(conversation, step)
        except StopIteration as end:
            result: T = end.value
            return result
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


def _next(conversation: Conversation[Any], step: Any) -> Any:
    """Wait as a conversation wants it, and give its next step."""
    if isinstance(step, Pause):
        time.sleep(step.seconds)
        return conversation.send(None)
    try:
        answer = step.result()
    except grpc.RpcError as error:
        return conversation.throw(error)
    return conversation.send(answer)
