"""TLS between the socket and HTTP/2, in memory, for any thread: OpenSSL wants one at a time."""

import ssl
import threading

RECORD_BYTES = 2**14
"""The most that one record holds."""


class Tls:
    """One connection's."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._lock = threading.Lock()
        self._shaken = False

    def open(self, data: bytes) -> bytes:
        """What was received, decrypted as far as it is complete; raises ssl.SSLError, an OSError."""
        pieces = []
        with self._lock:
            self._received.write(data)
            try:
                if not self._shaken:
                    self._tls.do_handshake()
                    self._shaken = True
                while piece := self._tls.read(RECORD_BYTES):
                    pieces.append(piece)
            except ssl.SSLWantReadError:
                pass
        return b"".join(pieces)

    @property
    def pending(self) -> bool:
        """Whether TLS itself has something to send."""
        return self._to_send.pending > 0

    def seal(self, data: bytes) -> bytes:
        """What is to be sent, encrypted, behind what TLS itself has to say."""
        with self._lock:
            if self._shaken:  # nothing is said before
                at = 0
                while at < len(data):
                    at += self._tls.write(data[at:] if at else data)
            return self._to_send.read()
