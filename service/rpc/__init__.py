"""How calls reach us and answers leave: two transports behind one interface.

``native`` is our own HTTP/2 (service.http2), made for many small calls; ``grpcio`` is grpc.aio. Both carry everything,
over TLS too. Nothing outside this package knows which one is in use.
"""

from .call import (
    BidiMethod,
    Call,
    Check,
    DeferredMethod,
    ImmediateCall,
    ImmediateMethod,
    Methods,
    SlowCalls,
    Transport,
    TransportOptions,
    request_id,
)
from .flush_scope import FlushScope
from .native_server import NativeTransport
from .tls_files import TlsFiles

__all__ = [
    "BidiMethod",
    "Call",
    "Check",
    "DeferredMethod",
    "FlushScope",
    "ImmediateCall",
    "ImmediateMethod",
    "Methods",
    "NativeTransport",
    "SlowCalls",
    "TlsFiles",
    "Transport",
    "TransportOptions",
    "request_id",
]
