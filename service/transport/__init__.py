"""How calls reach us and answers leave: two transports behind one interface.

``native`` is our own HTTP/2 (service.http2), made for many small calls; ``grpcio`` is grpc.aio, with TLS. Both carry
everything. Nothing outside this package knows which one is in use.
"""

from service.transport.call import Call, ColdMethod, HotMethod, Methods, StreamMethod, Transport
from service.transport.gathering import Gathering
from service.transport.grpcio import GrpcioTransport, Tls
from service.transport.native import NativeTransport

__all__ = [
    "Call",
    "ColdMethod",
    "Gathering",
    "GrpcioTransport",
    "HotMethod",
    "Methods",
    "NativeTransport",
    "StreamMethod",
    "Tls",
    "Transport",
]
