"""``python -m service.front``: what it writes, what it refuses, and what Envoy then lets in."""

import base64
import hashlib
import hmac
import http.client
import itertools
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import hypothesis
import pytest
import trustme
import yaml
from hypothesis import given
from hypothesis import strategies as st

from service.front import main
from service.front.yaml_text import yaml_text
from tests.deploy.fleet import ENVOY, INFER, Front, needs_envoy, request, write_front
from tests.servers import ROOT, START_S, Serve, ServerProcess
from tests.wire import TIMEOUT_S

CODE = grpc.StatusCode
HEALTH = "/grpc.health.v1.Health/Check"
EVERY = os.environ.get("CONVSERVE_FRONT") == "all"
"""Whether to take all the time that it takes."""
KEY = b"0123456789abcdef0123456789abcdef"
ISSUER = "https://login.example.com/"
TOKEN = "t0ken-of-the-test"  # noqa: S105 - made for these tests

TEXTS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20)
"""What YAML reads as JSON writes it: keys are short, and beyond these JSON needs two escapes for one character."""
DATA = st.recursive(
    TEXTS | st.integers() | st.booleans(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(TEXTS | st.sampled_from(["yes", "on", "null", "a_b", "5xx"]), inner)
    ),
)


@given(st.dictionaries(TEXTS, DATA) | st.lists(DATA))
@hypothesis.settings(max_examples=40)
def test_yaml_reads_back_equal(data: Any) -> None:
    """What is written is read as the same data by a library for YAML."""
    assert yaml.safe_load(yaml_text(data)) == data


def test_help_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    """The help is the front's own."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "usage: python -m service.front" in capsys.readouterr().out


HOSTS = ("--hosts", "127.0.0.1:8001")
REFUSALS = [
    ((), "--hosts is needed"),
    (("--hosts", "server"), "'server' is not HOST:PORT"),
    (("--hosts", "a:8001,a:8001"), "names an address twice"),
    (("--hosts", "a:70000"), "'a:70000' is not HOST:PORT"),
    ((*HOSTS, "--tls-key-file", "k.pem"), "needs both --tls-certificate-file and --tls-key-file"),
    ((*HOSTS, "--tls-client-ca-file", "c.pem"), "--tls-client-ca-file needs"),
    ((*HOSTS, "--server-tls-name", "x"), "needs both --server-tls-ca-file and --server-tls-name"),
    ((*HOSTS, "--jwt-issuer", ISSUER), "needs both --jwt-issuer and --jwt-keys"),
    ((*HOSTS, "--jwt-audience", "a"), "--jwt-audience needs"),
    ((*HOSTS, "--jwt-issuer", ISSUER, "--jwt-keys", "http://x/k"), "could be forged"),
    ((*HOSTS, "--jwt-issuer", ISSUER, "--jwt-keys", "k.json", "--tokens", "require"), "choose one"),
    ((*HOSTS, "--server-token-file", "t"), "would lend its token to all"),
    ((*HOSTS, "--rate", "-1"), "greater than or equal to 0"),
    ((*HOSTS, "--access-log", "some"), "'off', 'failures' or 'all'"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSALS, ids=[reason[:24] for _, reason in REFUSALS])
def test_wrong_options_are_refused(options: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that cannot be end with status 2 and a sentence, and nothing is written."""
    assert main(options) == 2
    written = capsys.readouterr()
    assert reason in written.err
    assert written.out == ""


def test_safety_does_not_depend_on_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Each group of servers has the retry budget, no panic, and asks health four times in the drain delay."""
    assert main([*HOSTS, "--http-hosts", "a:8080,b:8080", "--drain-delay-s", "6"]) == 0
    clusters = yaml.safe_load(capsys.readouterr().out)["static_resources"]["clusters"]
    assert [each["type"] for each in clusters] == ["STATIC", "STRICT_DNS"]
    for cluster in clusters:
        assert cluster["common_lb_config"] == {"healthy_panic_threshold": {"value": 0}}
        assert cluster["circuit_breakers"]["thresholds"][0]["retry_budget"]["budget_percent"] == {"value": 100}
        assert cluster["health_checks"][0]["interval"] == "1.500s"


def test_sample_is_what_its_head_says(capsys: pytest.CaptureFixture[str]) -> None:
    """deploy/envoy/envoy.yaml is what the command in its first line writes."""
    sample = (ROOT / "deploy" / "envoy" / "envoy.yaml").read_text(encoding="utf-8")
    options = shlex.split(sample.splitlines()[0].partition("convserve front ")[2])
    assert main(options) == 0
    assert capsys.readouterr().out == sample


class Door:
    """Files that the options name: a certificate, keys of JWT, a token."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        pair = self.authority.issue_cert("localhost")
        self.ca, self.certificate, self.key = (folder / name for name in ("ca.pem", "certificate.pem", "key.pem"))
        self.authority.cert_pem.write_to_path(str(self.ca))
        pair.cert_chain_pems[0].write_to_path(str(self.certificate))
        pair.private_key_pem.write_to_path(str(self.key))
        self.jwks, self.token = folder / "jwks.json", folder / "token"
        key = {"kty": "oct", "alg": "HS256", "kid": "one", "k": unpadded(KEY)}
        self.jwks.write_text(json.dumps({"keys": [key]}))
        self.token.write_text(TOKEN)

    @property
    def jwt(self) -> tuple[str, ...]:
        """Options that want a JWT for `convserve`, and lend the front's token."""
        keys = ("--jwt-issuer", ISSUER, "--jwt-keys", str(self.jwks), "--jwt-audience", "convserve")
        return (*keys, "--server-token-file", str(self.token))

    @property
    def tls(self) -> tuple[str, ...]:
        """Options that serve TLS."""
        return ("--tls-certificate-file", str(self.certificate), "--tls-key-file", str(self.key))

    @property
    def server_tls(self) -> tuple[str, ...]:
        """Options that speak TLS with the servers."""
        return ("--server-tls-ca-file", str(self.ca), "--server-tls-name", "localhost")


def unpadded(data: bytes) -> str:
    """Base64 as JWT has it."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(**claims: Any) -> str:
    """A JWT with these claims beside those that are right."""
    right = {"iss": ISSUER, "aud": "convserve", "sub": "a caller", "exp": int(time.time()) + 3600}
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "one"}, {**right, **claims}]
    text = ".".join(unpadded(json.dumps(part).encode()) for part in parts)
    return f"{text}.{unpadded(hmac.digest(KEY, text.encode(), 'sha256'))}"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    """The files of a front's door."""
    return Door(tmp_path_factory.mktemp("door"))


def combinations(door: Door) -> list[tuple[str, ...]]:
    """Options of every kind, each value of one with each value of the others."""
    remote = ("--jwt-issuer", ISSUER, "--jwt-keys", "https://login.example.com/jwks.json")
    choices: list[list[tuple[str, ...]]] = [
        [("--hosts", "127.0.0.1:1,127.0.0.1:2"), ("--hosts", "[::1]:1"), ("--hosts", "a.example:1,b.example:1")],
        [(), ("--http-hosts", "127.0.0.1:3"), ("--http-hosts", "a.example:3")],
        [(), ("--tokens", "require"), door.jwt, remote],
        [(), door.tls, (*door.tls, "--tls-client-ca-file", str(door.ca))],
        [(), door.server_tls],
        [(), ("--rate", "100", "--caller-rate", "10")],
        [(), ("--access-log", "off", "--admin", "127.0.0.1:9901", "--health-name", "model/mnist", "--retries", "0")],
    ]
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*choices)]


@needs_envoy
@pytest.mark.timeout(1800 if EVERY else 300)
def test_envoy_accepts_every_combination(door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Envoy finds no fault in what is written for any options; a sample of them, or all with ``make front``."""
    whole = combinations(door)
    files = {}
    for number, options in enumerate(whole if EVERY else whole[:: len(whole) // 12 + 1]):
        assert main(options) == 0
        files[tmp_path / f"{number}.yaml"] = options
        (tmp_path / f"{number}.yaml").write_text(capsys.readouterr().out)
    with ThreadPoolExecutor(2) as pool:
        for options, (accepted, said) in zip(files.values(), pool.map(validate, files), strict=True):
            assert accepted, f"{options}: {said}"


@needs_envoy
def test_envoy_refuses_misspelt_fields(tmp_path: Path) -> None:
    """The check of the files can fail: a field that Envoy does not know is found."""
    file = write_front(tmp_path / "envoy.yaml", *HOSTS)
    file.write_text(file.read_text().replace("retry_budget", "retry_budgets"))
    accepted, said = validate(file)
    assert not accepted
    assert "retry_budgets" in said


def validate(file: Path) -> tuple[bool, str]:
    """Whether Envoy takes the file, and what it said."""
    command = [str(ENVOY), "--mode", "validate", "--config-path", str(file), "--log-level", "error"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    return ended.returncode == 0, ended.stderr + ended.stdout


def ask(channel: grpc.Channel, method: str = INFER, bearer: str = "") -> tuple[grpc.StatusCode, str]:
    """How a call ends."""
    metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
    body = request() if method.endswith(INFER) else b""
    try:
        channel.unary_unary(method, None, None)(body, timeout=TIMEOUT_S, metadata=metadata)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return CODE.OK, ""


def write_tokens(folder: Path) -> Path:
    """A tokens file that knows TOKEN."""
    file, digest = folder / "tokens.toml", hashlib.sha256(TOKEN.encode()).hexdigest()
    file.write_text(f'[[tokens]]\nname = "front"\nsha256 = "{digest}"\nrights = ["infer"]\n')
    return file


@pytest.fixture(scope="module")
def guarded(serve: Serve, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """A server that wants one token."""
    file = write_tokens(tmp_path_factory.mktemp("tokens"))
    return serve(models_dir, "--models", "mnist-tiny", "--tokens-file", str(file))


@pytest.fixture
def callers_of(tmp_path: Path, guarded: ServerProcess) -> Iterator[Any]:
    """Starts a front before the guarded server; its options → the front."""
    started: list[Front] = []

    def start(*options: str) -> Front:
        started.append(Front(tmp_path, [guarded.address], *options).__enter__())
        return started[-1]

    yield start
    for front in started:
        front.__exit__(None, None, None)


@needs_envoy
def test_tokens_pass_the_front(callers_of: Any) -> None:
    """A call without a token is refused at the front, one with a wrong token at the server; health is open."""
    front: Front = callers_of("--tokens", "require")
    with front.channel() as channel:
        code, told = ask(channel)
        assert code is CODE.UNAUTHENTICATED
        assert "authorization: Bearer TOKEN" in told
        assert ask(channel, bearer="wrong")[0] is CODE.UNAUTHENTICATED
        assert ask(channel, bearer=TOKEN) == (CODE.OK, "")
        assert ask(channel, HEALTH) == (CODE.OK, "")


@needs_envoy
def test_jwt_opens_the_front(callers_of: Any, door: Door) -> None:
    """A right JWT gets in, and the server is shown the front's token; a wrong one is told why, by any path."""
    front: Front = callers_of(*door.jwt, "--access-log", "all")
    with front.channel() as channel:
        assert ask(channel, bearer=signed()) == (CODE.OK, "")
        assert ask(channel, HEALTH) == (CODE.OK, "")
        wrong = {"Jwt is missing": "", "Jwt is expired": signed(exp=1)}
        wrong |= {"Jwt issuer": signed(iss="https://elsewhere/"), "Jwt verification fails": signed()[:-3] + "AAA"}
        for reason, bearer in wrong.items():
            code, told = ask(channel, bearer=bearer)
            assert code is CODE.UNAUTHENTICATED
            assert reason in told
            assert ISSUER in told
        assert ask(channel, f"/grpc.health.v1.Health/..{INFER}")[0] is CODE.UNAUTHENTICATED
        code, told = ask(channel, bearer=signed(aud="another"))
        assert code is CODE.PERMISSION_DENIED
        assert "Audiences in Jwt are not allowed" in told


@needs_envoy
def test_rates_are_limited(callers_of: Any) -> None:
    """Above the limit a call is refused with RESOURCE_EXHAUSTED, over HTTP 429, and is told what to do."""
    front: Front = callers_of("--rate", "3")
    with front.channel() as channel:
        codes = {ask(channel, bearer=TOKEN) for _ in range(50)}
    (refused,) = {(code, told) for code, told in codes if code is not CODE.OK}
    assert refused[0] is CODE.RESOURCE_EXHAUSTED
    assert "limit of calls each second is reached" in refused[1]
    assert (CODE.OK, "") in codes


@needs_envoy
def test_callers_have_own_rates(callers_of: Any) -> None:
    """A caller that has used up its rate leaves that of another address alone."""
    front: Front = callers_of("--caller-rate", "3")
    assert 429 in {status_of(front.address, "127.0.0.1") for _ in range(50)}
    assert status_of(front.address, "127.0.0.2") == 404


def status_of(address: str, caller: str) -> int:
    """The HTTP status of a request from this address."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), TIMEOUT_S, source_address=(caller, 0))
    try:
        connection.request("GET", "/v2")
        return connection.getresponse().status
    finally:
        connection.close()


@needs_envoy
def test_one_port_tells_http_apart(callers_of: Any) -> None:
    """An HTTP/1 request on the port of gRPC is told that there is no HTTP, and what to do."""
    front: Front = callers_of()
    host, _, port = front.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), TIMEOUT_S)
    connection.request("POST", "/v1/classify", b"picture")
    response = connection.getresponse()
    assert response.status == 404
    assert "--http-port" in json.loads(response.read())["error"]
    connection.close()


@pytest.fixture
def both_doors(models_dir: Path, tmp_path: Path) -> Iterator[Front]:
    """A front before a server of gRPC and HTTP, which wants tokens."""
    tokens = write_tokens(tmp_path)
    options = ("--models", "mnist-tiny", "--http-port", "0", "--tokens-file", str(tokens))
    with ServerProcess(models_dir, *options) as server:
        http_address = server.events.await_one("listening")["http_address"]
        with Front(tmp_path, [server.address], "--http-hosts", http_address, "--tokens", "require") as front:
            yield front


@needs_envoy
def test_http_reaches_the_servers(both_doors: Front) -> None:
    """HTTP and gRPC come by one port; an image is classified, and a call without a token is refused by JSON."""
    picture = (ROOT / "tests" / "pictures" / "seven.png").read_bytes()
    status, found = classify(both_doors.address, picture, TOKEN)
    assert status == 200
    assert found["results"][0]["classes"][0]["label"] == "7"
    status, found = classify(both_doors.address, picture, "")
    assert status == 401
    assert "authorization: Bearer TOKEN" in found["error"]
    with both_doors.channel() as channel:
        assert ask(channel, bearer=TOKEN) == (CODE.OK, "")


def classify(address: str, picture: bytes, bearer: str) -> tuple[int, Any]:
    """The HTTP status and the JSON for an image."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), TIMEOUT_S)
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    try:
        connection.request("POST", "/v1/classify?model=mnist-tiny", picture, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@needs_envoy
def test_no_server_is_a_sentence(tmp_path: Path) -> None:
    """Where no server is healthy, a call fails at once with UNAVAILABLE, and so the access log says."""
    with Front(tmp_path, ["127.0.0.1:1"], ready=0) as front, front.channel() as channel:
        code, told = ask(channel)
        assert code is CODE.UNAVAILABLE
        assert "None of the front's servers is healthy" in told
    (line,) = front.lines
    assert (line["grpc_status"], line["flags"], line["path"]) == ("Unavailable", "UH", INFER)


@needs_envoy
def test_tls_holds_on_both_sides(tmp_path: Path, models_dir: Path, door: Door) -> None:
    """Callers with a certificate reach servers that speak TLS; callers without one do not."""
    secured = ("--tls-certificate-file", str(door.certificate), "--tls-key-file", str(door.key))
    options = (*door.tls, "--tls-client-ca-file", str(door.ca), *door.server_tls)
    files = [path.read_bytes() for path in (door.ca, door.key, door.certificate)]
    name = [("grpc.ssl_target_name_override", "localhost")]
    with (
        ServerProcess(models_dir, "--models", "mnist-tiny", *secured) as server,
        Front(tmp_path, [server.address], *options) as front,
        grpc.secure_channel(front.address, grpc.ssl_channel_credentials(*files), name) as known,
        grpc.secure_channel(front.address, grpc.ssl_channel_credentials(files[0]), name) as stranger,
    ):
        assert ask(known) == (CODE.OK, "")
        assert ask(stranger)[0] is CODE.UNAVAILABLE
