"""Artifacts in an OCI registry, each layer a file with its name as title, as ``oras push`` writes them.

https://github.com/opencontainers/image-spec/blob/main/manifest.md
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import oras.container
import oras.provider
import requests

from .artifact import Artifact, PullError, RemoteFile

SCHEME = "oci://"
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
"""Says that a layer is a folder, packed."""
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
MOST_MANIFEST_BYTES = 4 << 20
PIECE = 1 << 20
REACHED_WITHIN_S = 10
LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?")
REFERENCE = re.compile(
    r"(?P<registry>[^/\s]+)/(?P<repository>[^:@\s]+)(:(?P<tag>[\w.-]+))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


def open_artifact(source: str, *, plain_http: bool) -> Artifact:
    """Read the manifest of ``oci://registry/repository:tag`` or ``…@sha256:…``; raises PullError.

    A registry on loopback is asked over plain HTTP, any other only with ``plain_http``. Credentials are those that
    ``docker login`` or ``oras login`` keep.
    """
    found = REFERENCE.fullmatch(source.removeprefix(SCHEME))
    if not found:
        raise PullError(f"{source} names no artifact; expected oci://REGISTRY/REPOSITORY:TAG or …@sha256:DIGEST")
    insecure = plain_http or bool(LOOPBACK.fullmatch(found["registry"]))
    registry = oras.provider.Registry(insecure=insecure)
    container = oras.container.Container(found["repository"], registry=found["registry"])
    container.registry, container.namespace, container.repository = found["registry"], None, found["repository"]
    container.tag, container.digest = found["tag"] or "latest", found["digest"]
    try:
        requests.get(f"{registry.prefix}://{found['registry']}/v2/", timeout=REACHED_WITHIN_S)  # oras tries for minutes
        manifest = _manifest(registry, container, found["digest"] or "")
    except (requests.RequestException, ValueError, AttributeError, OSError) as error:
        raise PullError(f"{source} cannot be read: {_told(error)}") from error
    files = [_file(registry, container, layer) for layer in manifest.get("layers", ())]
    return Artifact(found["repository"].rsplit("/", 1)[-1], files)


def _manifest(registry: Any, container: Any, digest: str) -> dict[str, Any]:
    registry.auth.load_configs(container)
    url = f"{registry.prefix}://{container.manifest_url()}"
    response = registry.do_request(url, "GET", headers={"Accept": ", ".join(MANIFESTS)})
    if response.status_code != 200:
        raise ValueError(f"the registry answers {response.status_code} {response.reason}")
    content = response.content
    if digest and f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise ValueError(f"the manifest's SHA-256 is not {digest}")
    if len(content) > MOST_MANIFEST_BYTES:
        raise ValueError(f"its manifest has {len(content):,} bytes; the limit is {MOST_MANIFEST_BYTES:,}")
    manifest: dict[str, Any] = json.loads(content)
    if not manifest.get("layers"):
        raise ValueError("it is no artifact of files: its manifest has no layers (an index of several has none)")
    return manifest


def _file(registry: Any, container: Any, layer: Any) -> RemoteFile:
    try:
        digest, size = str(layer["digest"]), int(layer["size"])
        annotations = layer.get("annotations") or {}
        name, unpack = str(annotations.get(TITLE, "")), annotations.get(UNPACK) == "true"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PullError(f"a layer of the manifest cannot be read: {error!r}") from error
    if not SHA256.fullmatch(digest):
        raise PullError(f"a layer's digest is {digest[:80]!r}; expected sha256 and 64 hexadecimal digits")
    if not name or unpack:
        raise PullError("the artifact has a layer that is no file with a name; push the files one by one, as oras does")
    read = partial(_read, registry, container, digest, name)
    return RemoteFile(name, size, digest.removeprefix("sha256:"), read)


def _read(registry: Any, container: Any, digest: str, name: str) -> Iterator[bytes]:
    try:
        with registry.get_blob(container, digest, stream=True) as response:
            if response.status_code != 200:
                raise PullError(f"{name} cannot be read: the registry answers {response.status_code} {response.reason}")
            yield from response.iter_content(PIECE)
    except (requests.RequestException, OSError) as error:
        raise PullError(f"{name} cannot be read: {_told(error)}") from error


def _told(error: Exception) -> str:
    if isinstance(error, requests.ConnectionError):
        return "the registry does not answer, or not as one (--plain-http for one without TLS)"
    return str(error)
