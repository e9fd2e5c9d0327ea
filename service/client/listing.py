"""The command `list`: every model that a server knows, and why some of them are not served."""

import argparse
from collections.abc import Sequence

from .connection import environment_token
from .results import ModelSummary, TensorInfo, TensorModel, UnservedModel
from .sync import Client
from .tables import Cell, Output

_CLASSIFIER_HEADS: Sequence[str] = (
    *("model", "version", "data set", "accuracy", "images/s", "input", "type", "provider"),
)
_TENSOR_HEADS: Sequence[str] = ("tensor model", "version", "side", "name", "datatype", "shape")
_UNSERVED_HEADS: Sequence[str] = ("not served", "version", "reason")


def list_models(args: argparse.Namespace, output: Output) -> int:
    """Write the models, a table for each kind that there is."""
    with Client(args.address, timeout_s=args.timeout_s, tls=args.tls, token=environment_token()) as client:
        models = client.list_all_models()
    if args.json:
        output.json(
            {
                "models": [_model_entry(model) for model in models.classifiers],
                "tensor_models": [_tensor_model_entry(model) for model in models.tensor_models],
                "not_served": [
                    {"name": each.name, "version": each.version, "state": each.state, "reason": each.reason}
                    for each in models.unserved
                ],
            }
        )
        return 0
    tables = [
        (_CLASSIFIER_HEADS, [[_model_row(model)] for model in models.classifiers]),
        (_TENSOR_HEADS, [_tensor_rows(model) for model in models.tensor_models]),
        (_UNSERVED_HEADS, [[_unserved_row(each)] for each in models.unserved]),
    ]
    shown = [table for table in tables if table[1]] or tables[:1]
    for place, (heads, groups) in enumerate(shown):
        if place:
            output.line("")
        output.table(heads, groups)
    return 0


def _model_row(model: ModelSummary) -> tuple[Cell, ...]:
    return (
        model.name,
        model.version,
        model.dataset or "unknown",
        "unknown" if model.test_accuracy is None else f"{model.test_accuracy:.2%}",
        "-" if model.images_per_s is None else round(model.images_per_s),
        f"{model.image_height}x{model.image_width}x{model.image_channels}",
        model.precision,
        model.provider,
    )


def _tensor_rows(model: TensorModel) -> list[tuple[Cell, ...]]:
    tensors = [("input", each) for each in model.inputs] + [("output", each) for each in model.outputs]
    return [
        (model.name, model.version, side, tensor.name, tensor.datatype, str(list(tensor.shape)))
        for side, tensor in tensors
    ]


def _unserved_row(model: UnservedModel) -> tuple[Cell, ...]:
    return model.name, model.version, model.reason or model.state.lower()


def _model_entry(model: ModelSummary) -> dict[str, object]:
    return {
        "name": model.name,
        "version": model.version,
        "dataset": model.dataset or None,
        "labels": list(model.labels),
        "test_accuracy": model.test_accuracy,
        "parameters": model.parameters,
        "images_per_s": {"alone": model.images_per_s_alone, "in runs of 64": model.images_per_s},
        "input": {"height": model.image_height, "width": model.image_width, "channels": model.image_channels},
        "precision": model.precision,
        "provider": model.provider,
    }


def _tensor_model_entry(model: TensorModel) -> dict[str, object]:
    return {
        "name": model.name,
        "version": model.version,
        "inputs": [_tensor_entry(each) for each in model.inputs],
        "outputs": [_tensor_entry(each) for each in model.outputs],
    }


def _tensor_entry(tensor: TensorInfo) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
