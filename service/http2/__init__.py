"""gRPC over HTTP/2, the server's side, without I/O: bytes in, events out; messages in, bytes out.

Written in the words of RFC 9113, RFC 7541 and gRPC's protocol document. It knows no socket, no thread, no lock and no
clock: the loop that owns these feeds it (`service.rpc.event_loop`), and tests do so with lists of bytes.

    frames.py       the numbers and bytes of frames
    hpack.py        header blocks, decoded
    headers.py      gRPC's header fields in and out
    deframer.py     length-prefixed messages: limits, decompression
    connection.py   one connection: streams, flow control, events
"""
