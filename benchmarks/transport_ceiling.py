"""A server without a model shows the transport's own ceiling.

``python -m benchmarks.transport_ceiling --transport native --response FILE`` answers every ModelInfer with the bytes of
the file, through the service's transport, and does nothing else. SIGTERM ends it.
"""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.request_payload import MODEL_INFER
from service.memory import keep_freed_memory
from service.rpc import Call, Methods, NativeTransport, TransportOptions
from service.rpc.grpc_aio_server import GrpcioTransport

TRANSPORTS: dict[str, Callable[..., NativeTransport | GrpcioTransport]] = {
    "native": NativeTransport,
    "grpcio": GrpcioTransport,
}
"""As the server opens them by default."""
OPTIONS = TransportOptions(max_message_bytes=64 * 2**20, busy_poll_s=50e-6)
"""As the server's default."""


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport_ceiling", description=__doc__)
    parser.add_argument("--transport", choices=TRANSPORTS, required=True)
    parser.add_argument("--response", type=Path, required=True, help="a serialised ModelInferResponse")
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark stops it
    keep_freed_memory()  # as the server does
    methods = Methods({MODEL_INFER: _respond_with(options.response.read_bytes())}, {})
    open_transport = TRANSPORTS[options.transport]
    with open_transport("127.0.0.1:0", methods, _settle, OPTIONS) as transport:
        line = json.dumps({"event": "listening", "address": f"127.0.0.1:{transport.port}"})
        print(line, file=sys.stderr, flush=True)
        stop.wait()


def _settle() -> bool:
    """There is no batcher here."""
    return False


def _respond_with(response: bytes) -> Callable[[Call], None]:
    def respond(call: Call) -> None:
        call.respond(response)

    return respond


if __name__ == "__main__":
    main()
