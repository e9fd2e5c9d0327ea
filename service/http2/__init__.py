"""gRPC over HTTP/2, the server's side, without I/O: bytes in, events out; messages in, bytes out.

Written in the words of RFC 9113, RFC 7541 and gRPC's protocol document. It knows no socket, no thread, no lock and no
clock: the loop that owns these feeds it (`service.rpc.event_loop`), and tests do so with lists of bytes.

    frames.py          the numbers and bytes of frames
    hpack.py           header blocks, decoded
    headers.py         gRPC's header fields in and out
    header_blocks.py   header blocks put together: requests begin
    deframer.py        length-prefixed messages: limits, decompression
    stream.py          a request and its answer
    receiver.py        data received: messages, and windows for more
    sender.py          answers, as far as the client's windows allow them
    events.py          what a client's bytes mean
    connection.py      one connection: its frames, and all of these
"""

from importlib.util import find_spec


def is_compiled() -> bool:
    """Returns True where mypyc has compiled these modules: ``setup.py`` tells how."""
    spec = find_spec(f"{__name__}.connection")
    return spec is not None and not str(spec.origin).endswith(".py")
