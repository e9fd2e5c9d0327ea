"""A server's TLS: its files, in the forms in which the transports want them."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from service.errors import StartError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. Each form raises StartError where one of them cannot be used."""

    certificate_file: Path
    """The certificate, and those between it and its authority."""
    key_file: Path
    client_ca_file: Path | None = None
    """Where given, clients must present a certificate of this authority."""

    def context(self) -> ssl.SSLContext:
        """For the native transport: TLS 1.2 and newer, for HTTP/2 alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2"])
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
        """For grpcio."""
        try:
            pair = self.key_file.read_bytes(), self.certificate_file.read_bytes()
            ca = None if self.client_ca_file is None else self.client_ca_file.read_bytes()
        except OSError as error:
            raise StartError(f"the TLS file {error.filename} cannot be read: {error.strerror}") from error
        return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)


def _no_password() -> str:
    raise StartError("the TLS key is encrypted: give it without a password, in a file that only the server may read")
