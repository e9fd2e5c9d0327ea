"""How calls reach us and answers leave: two transports behind one interface.

``native`` carries the hot methods in Rust threads and lets grpcio serve the others behind it;
``grpcio`` carries everything. Nothing outside this package knows which one is in use.
"""

from service.transport.call import Call, ColdMethod, HotMethod, Methods, StreamMethod, Transport
from service.transport.grpcio import GrpcioTransport, Tls
from service.transport.native import NativeTransport

__all__ = [
    "Call",
    "ColdMethod",
    "GrpcioTransport",
    "HotMethod",
    "Methods",
    "NativeTransport",
    "StreamMethod",
    "Tls",
    "Transport",
]
