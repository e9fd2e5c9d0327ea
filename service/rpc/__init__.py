"""How calls reach us and answers leave: two transports behind one interface.

``native`` is our own HTTP/2 (service.http2), made for many small calls; ``grpcio`` is grpc.aio. Both carry everything,
over TLS too. Nothing outside this package knows which one is in use.
"""

from service.rpc.call import (
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
from service.rpc.flush_scope import FlushScope
from service.rpc.native_server import NativeTransport
from service.rpc.tls_files import TlsFiles

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
