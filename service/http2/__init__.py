"""gRPC over HTTP/2, the server's side, from bytes to messages and back.

Written for speed where calls are alike, and held to the standards (RFC 9113, RFC 7541, and
gRPC's own on top of them). Knows sockets' bytes, and nothing of methods' meaning, threads that serve, or models.

    frames.py       the numbers and bytes of frames
    table.py        header blocks, decoded
    fields.py       what a request's says, and the few that we send
    messages.py     messages in a stream's data: prefixes, limits, compression
    requests.py     what a connection hands its requests to
    incoming.py     the receiving half of a connection
    outgoing.py     its sending half, for any thread
    tls.py          encryption below both
"""
