"""How calls reach us and answers leave: two transports behind one interface.

``native`` is our own HTTP/2 (service.http2), made for many small calls; ``grpcio`` is grpc.aio. Both carry everything,
over TLS too. Nothing outside this package knows which one is in use.
"""

from service.transport.call import Call, ColdMethod, HotMethod, Methods, StreamMethod, Transport
from service.transport.gathering import Gathering
from service.transport.grpcio import GrpcioTransport
from service.transport.native import NativeTransport
from service.transport.tls import Tls

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
