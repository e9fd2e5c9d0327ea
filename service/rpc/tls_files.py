"""A server's TLS: its files, in the forms in which the transports want them."""

import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from ..errors import StartError
from ..file_changes import FileChanges

log = structlog.get_logger(__name__)

CHECK_S = 1.0
"""How often the files are looked at, at most."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. Each form raises StartError where one of them cannot be used."""

    certificate_file: Path
    """The certificate, and those between it and its authority."""
    key_file: Path
    client_ca_file: Path | None = None
    """Where given, clients must present a certificate of this authority."""

    def context(self, alpn: Sequence[str] = ("h2",)) -> ssl.SSLContext:
        """For the native transport and HTTP: TLS 1.2 and newer, for these protocols alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(alpn)
        context.options |= ssl.OP_NO_RENEGOTIATION  # RFC 9113, section 9.2.1
        file = self.certificate_file
        try:
            # Without the password OpenSSL would ask for it on the terminal.
            context.load_cert_chain(file, self.key_file, password=_no_password)
            if self.client_ca_file is not None:
                file = self.client_ca_file
                context.load_verify_locations(file)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:  # ssl.SSLError is one
            raise StartError(f"TLS cannot be had from {file} and {self.key_file}: {error}") from error
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """For grpcio, which asks again with each connection."""
        first = self._certificates()
        changes = _Changes(self)

        def fetch() -> Any:
            if not changes.seen():
                return None
            try:
                return self._certificates()
            except StartError as error:
                log.warning("the TLS files cannot be read again; the old ones are kept", reason=str(error))
                return None

        return grpc.dynamic_ssl_server_credentials(
            first, fetch, require_client_authentication=self.client_ca_file is not None
        )

    def _certificates(self) -> Any:
        try:
            pair = self.key_file.read_bytes(), self.certificate_file.read_bytes()
            ca = None if self.client_ca_file is None else self.client_ca_file.read_bytes()
        except OSError as error:
            raise StartError(f"the TLS file {error.filename} cannot be read: {error.strerror}") from error
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)


class TlsContexts:
    """The context for the next connection: made anew when the files change, kept while they cannot be read."""

    def __init__(self, files: TlsFiles, alpn: Sequence[str] = ("h2",)) -> None:
        """Raises StartError where the files cannot be used."""
        self._files = files
        self._alpn = alpn
        self._changes = _Changes(files)
        self._context = files.context(alpn)

    def current(self) -> ssl.SSLContext:
        """Returns it."""
        if self._changes.seen():
            try:
                self._context = self._files.context(self._alpn)
                log.info("TLS certificate read again", file=str(self._files.certificate_file))
            except StartError as error:
                log.warning("the TLS files cannot be read again; the old ones are kept", reason=str(error))
        return self._context


class _Changes:
    """Sees when one of the files was written or replaced."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = FileChanges(
            path for path in (files.certificate_file, files.key_file, files.client_ca_file) if path
        )
        self._looked_at = time.monotonic()
        self._lock = threading.Lock()

    def seen(self) -> bool:
        """Returns True once for each change; looks no more often than every CHECK_S."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked_at < CHECK_S:
                return False
            self._looked_at = now
            return self._files.seen()


def _no_password() -> str:
    raise StartError("the TLS key is encrypted: give it without a password, in a file that only the server may read")
