"""deploy/kubernetes and deploy/kserve: strictly valid, safe, and in step with the server.

No cluster runs here. `kubectl kustomize` renders the overlays, where there is a kubectl; plain files are checked
without. CONVSERVE_CRDS may name a folder of CustomResourceDefinitions, which are then checked against too.
"""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.metrics.catalog import METRICS
from service.options import options_of
from service.pb import open_inference_pb2 as pb
from service.server import LEAVE_S
from service.settings import Settings
from tests.deploy.crd_fields import SPECS, faults, load_all, name_of, schema_faults
from tests.servers import ROOT, START_S, ServerProcess

KUBERNETES, KSERVE = ROOT / "deploy" / "kubernetes", ROOT / "deploy" / "kserve"
VERSION = "1.34"
"""Of Kubernetes. The newest thing used is preStop's sleep, which is on by default since 1.30."""
MARGIN_S = 3
"""From the end of the grace to the process's end."""
KUBECTL, PROMTOOL = shutil.which("kubectl"), shutil.which("promtool")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="needs kubectl, which renders the overlays")
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
Resource = dict[str, Any]


def plain_files() -> list[Path]:
    """All files with whole resources."""
    files = [*KUBERNETES.glob("base/*.yaml"), *KUBERNETES.glob("components/*/*.yaml"), *KSERVE.glob("*.yaml")]
    return sorted(file for file in files if file.name != "kustomization.yaml")


def rendered(folder: Path) -> list[Resource]:
    """What `kubectl kustomize` makes of a folder."""
    command = [str(KUBECTL), "kustomize", str(folder)]
    return load_all(subprocess.run(command, capture_output=True, text=True, check=True, timeout=START_S).stdout)


def of_kind(resources: list[Resource], kind: str) -> Resource:
    """The only resource of its kind."""
    (found,) = (each for each in resources if each["kind"] == kind)
    return found


def definitions() -> dict[str, Resource]:
    """The CustomResourceDefinitions in CONVSERVE_CRDS, by kind."""
    folder = os.environ.get("CONVSERVE_CRDS")
    files = sorted(Path(folder).glob("*.yaml")) if folder else []
    found = [yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader) for file in files]
    return {each["spec"]["names"]["kind"]: each for each in found}


DEFINITIONS = definitions()


def problems(resource: Resource) -> str:
    """Which fields are unknown, missing, or of a wrong type, a line each; empty where all is well."""
    if name_of(resource) not in SPECS:
        return core_problem(resource)
    found = faults(resource)
    if definition := DEFINITIONS.get(resource["kind"]):
        found += schema_faults(resource, definition)
    for containers in find(resource["spec"], "containers"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": containers}}
        found.append(core_problem(pod))
    return "\n".join(filter(None, found))


def core_problem(resource: Resource) -> str:
    """The first fault of a resource of Kubernetes itself."""
    try:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return ""


def find(data: Any, field: str) -> Iterator[Any]:
    """The values of all fields of this name."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key == field:
                yield value
            yield from find(value, field)
    elif isinstance(data, list):
        for each in data:
            yield from find(each, field)


@pytest.mark.parametrize("file", plain_files(), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_files_are_strictly_valid(file: Path) -> None:
    """Each resource has only fields that its kind has; what kustomize adds, selectors, is put in first."""
    for resource in load_all(file.read_text(encoding="utf-8")):
        if resource["kind"] == "Deployment":
            labels = {"app.kubernetes.io/name": "convserve"}
            resource["spec"]["selector"] = {"matchLabels": labels}
            resource["spec"]["template"]["metadata"] = {"labels": labels}
        assert problems(resource) == ""


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_strictly_valid(overlay: str) -> None:
    """Each overlay renders to valid resources, of one Deployment each."""
    resources = rendered(KUBERNETES / "overlays" / overlay)
    for resource in resources:
        assert problems(resource) == ""
    of_kind(resources, "Deployment")


MISSPELT = [
    ("base/deployment.yaml", "readOnlyRootFilesystem", "readOnlyRootFileSystem"),
    ("base/deployment.yaml", "preStop", "prestop"),
    ("base/service.yaml", "appProtocol", "appprotocol"),
    ("base/poddisruptionbudget.yaml", "maxUnavailable", "maxUnavailble"),
    ("base/networkpolicy.yaml", "policyTypes", "policyType"),
    ("components/keda/scaledobject.yaml", "maxReplicaCount", "maxReplicas"),
    ("components/keda/scaledobject.yaml", "serverAddress", "serverAdress"),
    ("components/servicemonitor/servicemonitor.yaml", "interval", "intervall"),
    ("../kserve/servingruntime.yaml", "supportedModelFormats", "supportedModelFormat"),
    ("../kserve/servingruntime.yaml", "containerPort", "containerport"),
    ("../kserve/inferenceservice.yaml", "storageUri", "storageURI"),
]


@pytest.mark.parametrize(("file", "field", "wrong"), MISSPELT, ids=[wrong for _, _, wrong in MISSPELT])
def test_misspelt_fields_are_found(file: str, field: str, wrong: str) -> None:
    """The check can fail: one wrong letter in a field's name is found, in each kind of resource."""
    text = (KUBERNETES / file).read_text(encoding="utf-8")
    (resource,) = load_all(re.sub(rf"(?<=[ \n]){field}:", f"{wrong}:", text, count=1))
    assert wrong in problems(resource)


@pytest.mark.skipif(not DEFINITIONS, reason="CONVSERVE_CRDS names no folder of CustomResourceDefinitions")
def test_definitions_find_misspelt_fields() -> None:
    """The check by the CRDs' own schemas can fail too."""
    (resource,) = load_all((KUBERNETES / "components/keda/scaledobject.yaml").read_text(encoding="utf-8"))
    wrong = copy.deepcopy(resource)
    wrong["spec"]["maxReplicas"] = wrong["spec"].pop("maxReplicaCount")
    assert any("maxReplicas" in fault for fault in schema_faults(wrong, DEFINITIONS["ScaledObject"]))


def environment(container: Resource) -> dict[str, str]:
    """The container's environment variables."""
    return {each["name"]: each["value"] for each in container["env"]}


def setting(container: Resource, name: str) -> float:
    """What the server takes for a setting in this container, in seconds."""
    default = options_of(Settings)[name].default
    return float(environment(container).get(f"CONVSERVE_{name.upper()}", str(default)))


def check_lifetimes(pod: Resource, container: Resource) -> None:
    """The pod may live as long as the server's drain takes, and is not killed before the server ends by itself."""
    pre_stop_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain_s = setting(container, "drain_delay_s")
    assert drain_s > 0
    longest_s = pre_stop_s + drain_s + LEAVE_S + setting(container, "grace_s")
    assert pod["terminationGracePeriodSeconds"] == longest_s + MARGIN_S
    readiness, liveness = container["readinessProbe"], container["livenessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= drain_s
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > setting(container, "watchdog_s")


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_lifetimes_match_the_drain(overlay: str) -> None:
    """Grace, preStop and probes fit the server's settings and defaults."""
    pod = of_kind(rendered(KUBERNETES / "overlays" / overlay), "Deployment")["spec"]["template"]["spec"]
    check_lifetimes(pod, pod["containers"][0])


def test_kserve_lifetimes_match_the_drain() -> None:
    """So they do in KServe, whose InferenceService has the grace."""
    (runtime,) = load_all((KSERVE / "servingruntime.yaml").read_text(encoding="utf-8"))
    (service,) = load_all((KSERVE / "inferenceservice.yaml").read_text(encoding="utf-8"))
    check_lifetimes(service["spec"]["predictor"], runtime["spec"]["containers"][0])
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    assert service["spec"]["predictor"]["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_pods(overlay: str) -> None:
    """Service, disruption budget, network policy and monitor select the Deployment's pods, and their ports exist."""
    resources = rendered(KUBERNETES / "overlays" / overlay)
    template = of_kind(resources, "Deployment")["spec"]["template"]
    labels, ports = (
        template["metadata"]["labels"],
        {each["name"] for each in template["spec"]["containers"][0]["ports"]},
    )
    assert of_kind(resources, "Service")["spec"]["selector"] == labels
    assert of_kind(resources, "PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": labels}
    policy = of_kind(resources, "NetworkPolicy")["spec"]
    assert policy["podSelector"] == {"matchLabels": labels}
    named = {each["targetPort"] for each in of_kind(resources, "Service")["spec"]["ports"]}
    named |= {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert named == ports
    (container,) = template["spec"]["containers"]
    numbers = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    assert numbers["http"] == environment(container)["CONVSERVE_HTTP_PORT"]
    assert numbers["grpc"] == str(options_of(Settings)["port"].default)
    assert f"CONVSERVE_METRICS_PORT={numbers['metrics']}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    monitored = [each["spec"]["selector"]["matchLabels"] for each in resources if each["kind"] == "ServiceMonitor"]
    assert all(of_kind(resources, "Service")["metadata"]["labels"] == each for each in monitored)


def check_confined(pod: Resource, container: Resource) -> None:
    """What Pod Security Standards call restricted, with a root that cannot be written to."""
    own = pod.get("securityContext", {}) | container["securityContext"]
    assert own["runAsNonRoot"] is True
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert f"USER {own['runAsUser']}:" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined(overlay: str) -> None:
    """Each pod is restricted, as the image's own user, and gets no token of Kubernetes."""
    pod = of_kind(rendered(KUBERNETES / "overlays" / overlay), "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    check_confined(pod, pod["containers"][0])


def test_kserve_pods_are_confined() -> None:
    """The runtime's container is restricted too, and its first port says that it is gRPC."""
    (runtime,) = load_all((KSERVE / "servingruntime.yaml").read_text(encoding="utf-8"))
    (container,) = runtime["spec"]["containers"]
    check_confined({}, container)
    assert container["name"] == "kserve-container"
    assert container["ports"][0]["name"] == "h2c"


@pytest.mark.parametrize("versions", [True, False], ids=["versions", "file"])
def test_kserve_arguments_serve_the_model(models_dir: Path, tmp_path: Path, *, versions: bool) -> None:
    """The runtime's arguments serve what storageUri holds by the service's name, and no model of the image."""
    (runtime,) = load_all((KSERVE / "servingruntime.yaml").read_text(encoding="utf-8"))
    mounted = tmp_path / "models"
    shutil.copytree(models_dir / "mnist-tiny" / ("" if versions else "1"), mounted)
    arguments = runtime["spec"]["containers"][0]["args"]
    options = [each.replace("{{.Name}}", "digits").replace("/mnt/models", str(mounted)) for each in arguments]
    image = {"CONVSERVE_MODELS_DIR": str(models_dir)}
    with ServerProcess(models_dir, *options, env=image, folder=False) as server, server.channel() as channel:
        index = pb.RepositoryIndexResponse.FromString(
            channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex", None, None)(b"", timeout=START_S)
        )
    assert [model.name for model in index.models if model.state == "READY"] == ["digits"]


@pytest.mark.parametrize("file", plain_files(), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_settings_and_probes_exist(file: Path) -> None:
    """Environment variables are settings of the server, and probed services are those that it tells of."""
    text = file.read_text(encoding="utf-8")
    names = {name.removeprefix("CONVSERVE_").lower() for name in re.findall(r"\bCONVSERVE_[A-Z_]+", text)}
    assert names <= options_of(Settings).keys()
    for probed in re.findall(r"^ +service: (\S+)$", text, re.MULTILINE):
        assert probed in {"inference.GRPCInferenceService", "convserve.v1.ImageClassifier"}


def test_queries_name_our_metrics(tmp_path: Path) -> None:
    """Each metric, label and reason in KEDA's queries is told at /metrics; promtool reads them, where there is one."""
    (scaled,) = load_all((KUBERNETES / "components/keda/scaledobject.yaml").read_text(encoding="utf-8"))
    told = {metric.name: metric for metric in METRICS}
    queries = list(find(scaled, "query"))
    for query in queries:
        for name, labels in re.findall(r"\b(convserve_\w+)\{([^}]*)\}", query):
            metric = told[re.sub(r"_(sum|count|bucket)$", "", name)]
            assert set(re.findall(r"(\w+)=", labels)) <= {*metric.labels, "job"}
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    reasons = re.findall(r'reason=~"([^"]*)"', "".join(queries))
    assert all(f"| `{reason}` |" in page for found in reasons for reason in found.split("|"))
    if PROMTOOL is not None:
        rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
        file = tmp_path / "rules.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "keda", "rules": rules}]}))
        subprocess.run([PROMTOOL, "check", "rules", str(file)], check=True, capture_output=True, timeout=START_S)
