"""Signatures of model-signing (https://github.com/sigstore/model-transparency), over all files of an artifact."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from model_signing import verifying

from .artifact import PullError

SIGNATURE_NAME = "model.sig"


@dataclass(frozen=True)
class Signer:
    """Whose signature is accepted: one of a public key, certificates, or an identity that Sigstore vouches for."""

    public_key: Path | None = None
    certificates: tuple[Path, ...] = ()
    identity: str = ""
    issuer: str = ""

    def verify(self, folder: Path) -> None:
        """Raises PullError unless the files in `folder` are those that this signer has signed, and no others."""
        signature = folder / SIGNATURE_NAME
        if not signature.is_file():
            raise PullError(f"the artifact has no signature ({SIGNATURE_NAME}), and --require-signature wants one")
        try:
            with TemporaryDirectory() as elsewhere:  # a signature does not sign itself
                aside = Path(shutil.move(signature, elsewhere))
                try:
                    self._verifier().verify(folder, aside)
                finally:
                    shutil.move(aside, signature)
        except Exception as error:  # model-signing raises what its parts raise
            reason = str(error) or type(error).__name__
            raise PullError(f"the signature is not one of these files by this signer: {reason}") from error

    def _verifier(self) -> verifying.Config:
        config = verifying.Config()  # type: ignore[no-untyped-call] # so there
        if self.public_key:
            return config.use_elliptic_key_verifier(public_key=self.public_key)
        if self.certificates:
            return config.use_certificate_verifier(certificate_chain=self.certificates)
        return config.use_sigstore_verifier(identity=self.identity, oidc_issuer=self.issuer)
