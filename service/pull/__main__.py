"""``convserve pull SOURCE [MODELS]``: its command line."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .artifact import NAME, PullError

DESCRIPTION = """\
Bring one version of a model into a models folder. SOURCE is oci://REGISTRY/REPOSITORY:TAG (or @sha256:DIGEST), s3://,
gs:// or az:// with a bucket and a prefix, or file:// with a folder; a single .onnx file will do. All of it is checked
before the new version appears: names, lengths, digests, the file's own hashes, and its signature if one is wanted.
"""
EPILOG = """\
Credentials: those of `docker login` or `oras login` for a registry; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT_URL and the like for a bucket. A server with --model-control poll takes the version up by
itself; any other on SIGHUP.
"""


def main(arguments: Sequence[str] | None = None, prog: str = f"python -m {__package__}") -> int:
    """Bring a model; 0 where it is in place, or was already, 1 with a sentence on standard error where it cannot be."""
    parser = make_parser(prog)
    args = parser.parse_args(arguments)
    if args.name and not NAME.fullmatch(args.name):
        parser.error(f"--name {args.name!r} is no name of a model; expected letters, digits, and . _ - within")
    if args.model_version is not None and args.model_version < 1:
        parser.error(f"--model-version is {args.model_version}; expected 1 or more")
    given = [bool(args.public_key), bool(args.certificate), bool(args.identity or args.issuer)]
    if sum(given) > 1 or bool(args.identity) != bool(args.issuer):
        parser.error("say one signer: --public-key, or --certificate, or --identity with --issuer")
    if args.require_signature and not any(given):
        parser.error("--require-signature needs a signer: --public-key, --certificate, or --identity with --issuer")
    try:
        from .pull import pull  # with what the extra brings

        place, is_new = pull(args)
    except ImportError as error:
        return _fail(f"this needs the package {error.name}: pip install 'convserve[pull]'")
    except KeyboardInterrupt:
        return _fail("interrupted; the models folder is as it was", 130)
    except PullError as error:
        return _fail(str(error))
    sys.stdout.write(f"{place}{'' if is_new else ' has these very files already'}\n")
    return 0


def _fail(sentence: str, status: int = 1) -> int:
    sys.stderr.write(f"{sentence}\n")
    return status


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("source", metavar="SOURCE", help="where the model is")
    parser.add_argument(
        "models", metavar="MODELS", type=Path, nargs="?", default=Path("models"), help="default: models"
    )
    parser.add_argument("--name", help="the model's name (default: the source's last part)")
    parser.add_argument("--model-version", type=int, metavar="N", help="its version (default: the next one)")
    parser.add_argument("--sha256", type=_sha256, metavar="HEX", help="what model.onnx must have")
    parser.add_argument("--max-gib", type=float, default=16, metavar="N", help="largest artifact taken (default: 16)")
    parser.add_argument("--plain-http", action="store_true", help="no TLS (a registry on loopback needs no such word)")
    signed = parser.add_argument_group("signatures", "A signer that is named must have signed all of the files.")
    signed.add_argument("--require-signature", action="store_true", help="refuse to run without a signer named below")
    signed.add_argument("--public-key", type=Path, metavar="PEM", help="of an elliptic curve key")
    signed.add_argument("--certificate", type=Path, action="append", metavar="PEM", help="root of trust; repeatable")
    signed.add_argument("--identity", help="who signed by Sigstore (needs the internet)")
    signed.add_argument("--issuer", metavar="URL", help="who vouches for that identity")
    return parser


def _sha256(text: str) -> str:
    digest = text.removeprefix("sha256:").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise argparse.ArgumentTypeError(f"expected 64 hexadecimal digits, not '{text}'")
    return digest


if __name__ == "__main__":
    sys.exit(main())
