"""TLS between a socket and HTTP/2, in memory."""

import ssl

RECORD_BYTES = 2**14
"""The most that one record holds."""


class TlsChannel:
    """One connection's TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self.handshake_done = False

    def receive(self, data: bytes) -> bytes:
        """Returns what was received, decrypted as far as it is complete; raises ssl.SSLError, an OSError."""
        pieces = []
        self._received.write(data)
        try:
            if not self.handshake_done:
                self._tls.do_handshake()
                self.handshake_done = True
                if self._tls.selected_alpn_protocol() != "h2":  # RFC 9113, section 3.3, and gRPC's clients insist on it
                    raise ssl.SSLError("the client does not ask for HTTP/2 by ALPN")
            while piece := self._tls.read(RECORD_BYTES):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        return b"".join(pieces)

    def send(self, data: bytes) -> bytes:
        """Returns what is to be written: the data encrypted, behind what TLS itself has to say (alerts too)."""
        if data and self.handshake_done:
            view = memoryview(data)
            while view:
                view = view[self._tls.write(view) :]
        return self._to_send.read() if self._to_send.pending else b""
