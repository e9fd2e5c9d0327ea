"""Models come from a real registry, a real S3 server and folders; what was changed on the way is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import oras.provider
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer

from service.client import Client
from service.pull.__main__ import main
from tests.metrics import free_port
from tests.servers import ROOT, ServerProcess

SHIPPED = ROOT / "models" / "mnist-tiny" / "1"
MODEL = (SHIPPED / "model.onnx").read_bytes()


def changed(model: bytes) -> bytes:
    """The same file with one bit of a weight changed."""
    middle = len(model) // 2
    return model[:middle] + bytes([model[middle] ^ 1]) + model[middle + 1 :]


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A version's folder: a model, and a page beside it."""
    folder = tmp_path / "source" / "birds" / "3"
    folder.mkdir(parents=True)
    shutil.copy(SHIPPED / "model.onnx", folder)
    (folder / "README.md").write_text("# birds\n")
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence that a pull ends with; it leaves nothing behind."""
    models = Path(str(arguments[1]))
    before = sorted(models.rglob("*"))
    assert main([str(argument) for argument in arguments]) == 1
    assert sorted(models.rglob("*")) == before
    (sentence,) = capsys.readouterr().err.splitlines()
    return sentence


def test_folder_becomes_next_version(birds: Path, tmp_path: Path) -> None:
    """A folder becomes the next version of its model, which the server then serves; the same files come once."""
    models = tmp_path / "models"
    source = birds.as_uri()
    assert main([source, str(models)]) == 0
    assert main([source, str(models)]) == 0
    (birds / "README.md").write_text("# better birds\n")
    assert main([source, str(models)]) == 0
    assert sorted(path.name for path in (models / "birds").iterdir()) == ["1", "2"]
    assert (models / "birds" / "2" / "model.onnx").read_bytes() == MODEL
    assert [path for path in models.iterdir() if path.name.startswith(".")] == []
    with ServerProcess(models) as server, Client(server.address) as client:
        served = [(model.name, model.version) for model in client.list_models()]
    assert served == [("birds", "1"), ("birds", "2")]


def test_single_file_is_enough(tmp_path: Path) -> None:
    """A file of any name becomes model.onnx of the model that --name says, at the version that is said."""
    file = tmp_path / "export.onnx"
    file.write_bytes(MODEL)
    assert main([file.as_uri(), str(tmp_path / "models"), "--name", "digits", "--model-version", "7"]) == 0
    assert (tmp_path / "models" / "digits" / "7" / "model.onnx").read_bytes() == MODEL


def test_changed_byte_is_refused(birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not as it was exported is refused by its own hashes."""
    (birds / "model.onnx").write_bytes(changed(MODEL))
    assert "not as it was exported" in refused(capsys, birds.as_uri(), tmp_path / "models")


def test_other_digest_is_refused(birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--sha256 says which model is wanted."""
    models, right = tmp_path / "models", hashlib.sha256(MODEL).hexdigest()
    assert right in refused(capsys, birds.as_uri(), models, "--sha256", "0" * 64)
    assert main([birds.as_uri(), str(models), "--sha256", f"sha256:{right}"]) == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("birds", "is no source; expected oci://"),
        ("file:///no/such/folder", "there is no such folder"),
        ("file://elsewhere/birds", "file:// and an absolute path"),
        ("oci://birds", "expected oci://REGISTRY/REPOSITORY:TAG"),
        ("oci://127.0.0.1:9/birds:1", "the registry does not answer"),
    ],
    ids=str,
)
def test_bad_source_is_a_sentence(source: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source that cannot be read is refused with what is expected."""
    assert words in refused(capsys, source, tmp_path)


def test_folder_must_be_one_version(birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of versions is told to name one; one without a model, a taken version and a small limit are refused."""
    models = tmp_path / "models"
    assert "holds versions (3); name one of them" in refused(capsys, birds.parent.as_uri(), models)
    assert "(--max-gib)" in refused(capsys, birds.as_uri(), models, "--max-gib", "0.00001")
    assert main([birds.as_uri(), str(models), "--model-version", "2"]) == 0
    (birds / "README.md").write_text("# other birds\n")
    assert "already" in refused(capsys, birds.as_uri(), models, "--model-version", "2")
    (birds / "model.onnx").unlink()
    assert "no model.onnx at its top; it has README.md" in refused(capsys, birds.as_uri(), models)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public key has the ending .pub."""
    private = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.with_suffix(".pub").write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def sign(folder: Path, key: Path) -> None:
    """Sign all files of a folder as the page says."""
    program = Path(sys.executable).with_name("model_signing")
    command: list[str | Path] = [
        program,
        "sign",
        "key",
        folder,
        "--private_key",
        key,
        "--signature",
        folder / "model.sig",
    ]
    subprocess.run(command, check=True, capture_output=True)


def test_signature_is_verified(birds: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that its signer has signed is taken; one that is not signed, or was changed or added to, is not."""
    models, wanted = tmp_path / "models", ("--require-signature", "--public-key", key.with_suffix(".pub"))
    assert "no signature (model.sig)" in refused(capsys, birds.as_uri(), models, *wanted)
    sign(birds, key)
    assert main([birds.as_uri(), str(models), *map(str, wanted)]) == 0
    (birds / "README.md").write_text("# changed\n")
    assert "README.md" in refused(capsys, birds.as_uri(), models, *wanted)
    (birds / "README.md").write_text("# birds\n")
    (birds / "added.txt").write_text("more")
    assert "added.txt" in refused(capsys, birds.as_uri(), models, *wanted)


def test_other_signer_is_refused(birds: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A signature by another key counts for nothing."""
    sign(birds, key)
    other = tmp_path / "other.pub"
    private = ec.generate_private_key(ec.SECP256R1()).public_key()
    other.write_bytes(private.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    words = refused(capsys, birds.as_uri(), tmp_path / "models", "--require-signature", "--public-key", other)
    assert "not one of these files by this signer" in words


@pytest.mark.parametrize(
    "arguments",
    [["--require-signature"], ["--public-key", "a", "--identity", "b", "--issuer", "c"], ["--identity", "a"]],
    ids=" ".join,
)
def test_signer_must_be_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """--require-signature needs one signer."""
    with pytest.raises(SystemExit) as caught:
        main(["file:///tmp", *arguments])
    assert caught.value.code == 2
    assert "--public-key" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real S3 server on loopback; its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


def test_bucket_becomes_a_version(
    birds: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Objects below a prefix become a version; the model is named by the part before the number."""
    for name, value in {
        "AWS_ENDPOINT_URL": bucket,
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_SECRET_ACCESS_KEY": "two",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=bucket)
    client.create_bucket(Bucket="models")
    for path in birds.iterdir():
        client.upload_file(str(path), "models", f"shop/birds/3/{path.name}")
    models = tmp_path / "models"
    assert main(["s3://models/shop/birds/3", str(models)]) == 0
    assert (models / "birds" / "1" / "model.onnx").read_bytes() == MODEL
    assert "holds versions (3)" in refused(capsys, "s3://models/shop/birds", models)
    assert "has no files" in refused(capsys, "s3://models/nothing", models)
    assert "cannot be read" in refused(capsys, "s3://nowhere/birds", models)
    client.put_object(Bucket="models", Key="shop/birds/4/model.onnx", Body=changed(MODEL))
    assert "not as it was exported" in refused(capsys, "s3://models/shop/birds/4", models)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real registry on loopback, and the folder in which it keeps its blobs."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry, of Debian's package of that name")
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "for this test"},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    command = [program, "serve", str(folder / "config.yml")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 30
        while not _answers(f"http://127.0.0.1:{port}/v2/"):
            assert process.poll() is None
            assert time.monotonic() < until
        yield f"127.0.0.1:{port}", folder
        process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        time.sleep(0.05)
        return False


def push(address: str, folder: Path, reference: str) -> str:
    """Push the files of a folder as `oras push` does; the digest of the manifest."""
    client = oras.provider.Registry(insecure=True)
    files = [str(path) for path in folder.iterdir()]
    answer = client.push(f"{address}/{reference}", files=files, disable_path_validation=True, quiet=True)
    return str(answer.headers["Docker-Content-Digest"])


def test_registry_gives_a_version(
    birds: Path, registry: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An artifact comes by its tag or its digest; a digest or tag that is not there is refused."""
    address, _ = registry
    digest = push(address, birds, "shop/birds:3")
    models = tmp_path / "models"
    assert main([f"oci://{address}/shop/birds:3", str(models)]) == 0
    assert (models / "birds" / "1" / "README.md").read_text() == "# birds\n"
    assert main([f"oci://{address}/shop/birds@{digest}", str(models), "--name", "pinned"]) == 0
    assert (models / "pinned" / "1" / "model.onnx").read_bytes() == MODEL
    assert "404" in refused(capsys, f"oci://{address}/shop/birds:4", models)
    assert "404" in refused(capsys, f"oci://{address}/shop/birds@sha256:{'0' * 64}", models)


def test_changed_blob_is_refused(
    birds: Path, registry: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte that changed in the registry's own storage does not pass."""
    address, folder = registry
    (birds / "README.md").write_text("# rare birds\n")
    push(address, birds, "rare:1")
    digest = hashlib.sha256(b"# rare birds\n").hexdigest()
    (blob,) = folder.rglob(f"{digest}/data")
    blob.write_bytes(b"# rare birdz\n")
    words = refused(capsys, f"oci://{address}/rare:1", tmp_path / "models")
    assert digest in words
    assert "README.md" in words


def test_hostile_names_are_refused(
    birds: Path, registry: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest cannot write outside of the version's folder."""
    address, _ = registry
    push(address, birds, "hostile:1")
    url = f"http://{address}/v2/hostile/manifests/"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    manifest = httpx.get(f"{url}1", headers=accept).json()
    for number, name in enumerate(("../../escaped", "/tmp/escaped", "a/../../b", "."), start=2):  # noqa: S108 - a name
        manifest["layers"][0]["annotations"]["org.opencontainers.image.title"] = name
        put = httpx.put(f"{url}{number}", json=manifest, headers={"Content-Type": manifest["mediaType"]})
        assert put.status_code == 201
        words = refused(capsys, f"oci://{address}/hostile:{number}", tmp_path / "models")
        assert "no path within a version's folder" in words


def test_serving_process_has_none_of_it() -> None:
    """The server imports nothing that pulls."""
    script = "import service.server, service.__main__, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert not loaded & {"oras", "obstore", "model_signing", "requests", "service.pull"}
