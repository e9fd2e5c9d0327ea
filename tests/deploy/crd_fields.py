"""The fields of custom resources that deploy/ uses, in our words, and a strict check by them.

Written from the documentation of KEDA (2.20), prometheus-operator (0.92) and KServe (0.20). Kubernetes drops unknown
fields of these without a word, so a misspelt one would do nothing. Containers are left to the check of pods.
"""

from collections.abc import Iterator
from typing import Any

import yaml
from jsonschema import Draft202012Validator

Shape = Any
"""A type; a set of the words allowed; a mapping of fields to shapes, those needed with ``!``; a list of one shape for
each item. A mapping of ``...`` to a shape has any fields. ``...`` is checked elsewhere."""

ANY_TEXTS: Shape = {...: str}
POLICIES = [{"type!": {"Pods", "Percent"}, "value!": int, "periodSeconds!": int}]
SCALING = {"stabilizationWindowSeconds": int, "selectPolicy": {"Max", "Min", "Disabled"}, "policies": POLICIES}
PROMETHEUS_TRIGGER = {
    "serverAddress!": str,
    "query!": str,
    "threshold!": str,
    "activationThreshold": str,
    "namespace": str,
    "ignoreNullValues": str,
    "unsafeSsl": str,
    "timeout": str,
    "authModes": str,
    "customHeaders": str,
    "queryParameters": str,
}
METADATA = {"name!": str, "namespace": str, "labels": ANY_TEXTS, "annotations": ANY_TEXTS}

SPECS: dict[str, Shape] = {
    "keda.sh/v1alpha1 ScaledObject": {
        "scaleTargetRef!": {"name!": str, "apiVersion": str, "kind": str, "envSourceContainerName": str},
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "idleReplicaCount": int,
        "pollingInterval": int,
        "cooldownPeriod": int,
        "initialCooldownPeriod": int,
        "advanced": {
            "restoreToOriginalReplicaCount": bool,
            "horizontalPodAutoscalerConfig": {
                "name": str,
                "behavior": {"scaleUp": SCALING, "scaleDown": SCALING},
            },
        },
        "fallback": {
            "failureThreshold!": int,
            "replicas!": int,
            "behavior": {"static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"},
        },
        "triggers!": [
            {
                "type!": {"prometheus"},
                "name": str,
                "metricType": {"Value", "AverageValue"},
                "useCachedMetrics": bool,
                "metadata!": PROMETHEUS_TRIGGER,
            }
        ],
    },
    "monitoring.coreos.com/v1 ServiceMonitor": {
        "selector!": {"matchLabels": ANY_TEXTS},
        "namespaceSelector": {"any": bool, "matchNames": [str]},
        "jobLabel": str,
        "endpoints!": [{"port": str, "path": str, "interval": str, "scrapeTimeout": str, "scheme": {"http", "https"}}],
    },
    "serving.kserve.io/v1alpha1 ServingRuntime": {
        "annotations": ANY_TEXTS,
        "labels": ANY_TEXTS,
        "supportedModelFormats": [{"name!": str, "version": str, "autoSelect": bool, "priority": int}],
        "protocolVersions": [{"v1", "v2", "grpc-v1", "grpc-v2"}],
        "multiModel": bool,
        "disabled": bool,
        "nodeSelector": ANY_TEXTS,
        "containers!": ...,
        "volumes": ...,
        "tolerations": ...,
    },
    "serving.kserve.io/v1beta1 InferenceService": {
        "predictor!": {
            "minReplicas": int,
            "maxReplicas": int,
            "terminationGracePeriodSeconds": int,
            "timeout": int,
            "serviceAccountName": str,
            "nodeSelector": ANY_TEXTS,
            "tolerations": ...,
            "model!": {
                "runtime": str,
                "modelFormat!": {"name!": str, "version": str},
                "protocolVersion": {"v1", "v2", "grpc-v1", "grpc-v2"},
                "storageUri": str,
                "resources": ...,
                "env": ...,
                "args": [str],
            },
        }
    },
}


def name_of(resource: dict[str, Any]) -> str:
    """What the resource's kind is called in SPECS."""
    return f"{resource.get('apiVersion')} {resource.get('kind')}"


def faults(resource: dict[str, Any]) -> list[str]:
    """What is wrong with a custom resource, by our words; each with its place."""
    whole = {"apiVersion!": str, "kind!": str, "metadata!": METADATA, "spec!": SPECS[name_of(resource)]}
    return list(_faults(resource, whole, name_of(resource)))


def _faults(data: Any, shape: Shape, place: str) -> Iterator[str]:
    if shape is ...:
        return
    if isinstance(shape, set):
        if data not in shape:
            yield f"{place}: {data!r} is none of {sorted(shape)}"
    elif isinstance(shape, list):
        yield from _list_faults(data, shape[0], place)
    elif isinstance(shape, dict):
        yield from _mapping_faults(data, shape, place)
    elif type(data) is not shape:
        yield f"{place}: {data!r} is no {shape.__name__}"


def _list_faults(data: Any, shape: Shape, place: str) -> Iterator[str]:
    if not isinstance(data, list) or not data:
        yield f"{place}: a list is needed"
        return
    for number, item in enumerate(data):
        yield from _faults(item, shape, f"{place}[{number}]")


def _mapping_faults(data: Any, shape: dict[Any, Shape], place: str) -> Iterator[str]:
    if not isinstance(data, dict):
        yield f"{place}: a mapping is needed"
        return
    known = {str(field).rstrip("!"): inner for field, inner in shape.items() if field is not ...}
    for field, value in data.items():
        if field in known or ... in shape:
            yield from _faults(value, known.get(field, shape.get(...)), f"{place}.{field}")
        else:
            yield f"{place}.{field}: there is no such field"
    for field in shape:
        if field is not ... and field.endswith("!") and field[:-1] not in data:
            yield f"{place}.{field[:-1]}: is missing"


def schema_faults(resource: dict[str, Any], definition: dict[str, Any]) -> list[str]:
    """What is wrong with a custom resource, by its CustomResourceDefinition."""
    version = str(resource["apiVersion"]).rpartition("/")[2]
    (schema,) = (
        each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == version
    )
    strict = _strict(schema)
    strict["properties"]["metadata"] = {"type": "object"}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(strict).iter_errors(resource)]


def _strict(schema: Any) -> Any:
    """The schema, with no field beside those it names."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


def load_all(text: str) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(text) if document]
