"""The commands: each asks a server, writes a table or one JSON document, and returns the exit code."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from service.client.aio import AsyncClient
from service.client.dataset import READERS
from service.client.errors import UnusablePicture
from service.client.evaluation import Evaluation, choose_model, evaluate
from service.client.results import Classification, ModelSummary, Result
from service.client.sync import Client
from service.client.tables import Cell, Output, Share

FROM_INPUT = "-"
"""Stands for a picture on standard input."""


def token() -> str:
    """The bearer token of the environment: arguments can be read by others on this machine."""
    return os.environ.get("CONVSERVE_TOKEN", "")


def classify(args: argparse.Namespace, output: Output) -> int:
    """Write what each picture shows; 1 where one of them could not be used."""
    names: list[str] = args.pictures
    if names.count(FROM_INPUT) > 1:
        raise UnusablePicture("standard input, '-', holds one picture: name it once")
    pictures = [sys.stdin.buffer.read() if name == FROM_INPUT else Path(name) for name in names]
    with Client(args.address, timeout_s=args.timeout_s, tls=args.tls, token=token()) as client:
        results = client.classify(
            pictures, model=args.model, version=args.version, top_k=args.top_k, logits=args.logits
        )
    if args.json:
        entries = [_picture_entry(name, result) for name, result in zip(names, results, strict=True)]
        _write_json(output, {"model": args.model, "pictures": entries})
    else:
        versions = sorted({result.model_version for result in results if isinstance(result, Classification)})
        output.table(
            ("picture", "label", "probability", *(("logit",) if args.logits else ())),
            [_picture_rows(name, result) for name, result in zip(names, results, strict=True)],
            caption=f"{args.model}, version {' and '.join(versions)}" if versions else "",
        )
    return 0 if all(isinstance(result, Classification) for result in results) else 1


def _picture_rows(name: str, result: Result) -> list[tuple[Cell, ...]]:
    if not isinstance(result, Classification):
        return [(name, f"{result.code}: {result.message}")]
    return [
        (
            name,
            each.label,
            Share(each.probability),
            *((f"{result.logits[each.index]:.4f}",) if result.logits else ()),
        )
        for each in result.classes
    ]


def _picture_entry(name: str, result: Result) -> dict[str, object]:
    """Give every entry the same keys; what does not apply is null."""
    entry: dict[str, object] = {"picture": name, "version": None, "classes": None, "logits": None, "error": None}
    if isinstance(result, Classification):
        entry["version"] = result.model_version
        entry["classes"] = [
            {"label": each.label, "index": each.index, "probability": each.probability} for each in result.classes
        ]
        entry["logits"] = list(result.logits) or None
    else:
        entry["error"] = {"code": result.code, "message": result.message}
    return entry


def list_models(args: argparse.Namespace, output: Output) -> int:
    """Write the models that can be asked."""
    with Client(args.address, timeout_s=args.timeout_s, tls=args.tls, token=token()) as client:
        models = client.list_models()
    if args.json:
        _write_json(output, {"models": [_model_entry(model) for model in models]})
    else:
        heads = ("model", "version", "data set", "accuracy", "parameters", "input", "type", "provider")
        output.table(heads, [[_model_row(model)] for model in models])
    return 0


def _model_row(model: ModelSummary) -> tuple[Cell, ...]:
    return (
        model.name,
        model.version,
        model.dataset or "unknown",
        "unknown" if model.test_accuracy is None else f"{model.test_accuracy:.2%}",
        model.parameters,
        f"{model.image_height}x{model.image_width}x{model.image_channels}",
        model.precision,
        model.provider,
    )


def _model_entry(model: ModelSummary) -> dict[str, object]:
    return {
        "name": model.name,
        "version": model.version,
        "dataset": model.dataset or None,
        "labels": list(model.labels),
        "test_accuracy": model.test_accuracy,
        "parameters": model.parameters,
        "input": {"height": model.image_height, "width": model.image_width, "channels": model.image_channels},
        "precision": model.precision,
        "provider": model.provider,
    }


def dataset(args: argparse.Namespace, output: Output) -> int:
    """Send a test set through the server and write how it did."""
    evaluation = asyncio.run(_evaluate(args))
    p50_ms, p99_ms = evaluation.latency_ms(50), evaluation.latency_ms(99)
    if args.json:
        _write_json(output, _evaluation_entry(args, evaluation, p50_ms, p99_ms))
        return 0
    output.table(("class", "accuracy", "correct", "of"), [[row] for row in _class_rows(evaluation)])
    model = evaluation.model
    output.line(f"{args.dataset} test set, {model.name} version {model.version} ({model.precision}, {model.provider})")
    low, high = evaluation.interval
    output.line(
        f"accuracy    {evaluation.accuracy:.2%} ({evaluation.correct:,} of {evaluation.total:,}; "
        f"95% interval {low:.2%} to {high:.2%})"
    )
    output.line(f"throughput  {evaluation.images_per_second:,.0f} images/s in {evaluation.seconds:.2f} s")
    output.line(
        f"latency     p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms a call "
        f"({args.batch} images a call, {args.concurrency} calls at once)"
    )
    return 0


async def _evaluate(args: argparse.Namespace) -> Evaluation:
    pictures = READERS[args.dataset](args.data_dir).first(args.limit)
    bar = Output(stderr=True).progress(args.dataset, len(pictures.labels))
    async with AsyncClient(
        args.address, timeout_s=args.timeout_s, tls=args.tls, max_call_images=args.batch, token=token()
    ) as client:
        models = await client.list_models()
        model = choose_model(models, dataset=args.dataset, name=args.model, target=args.address)
        with bar:
            return await evaluate(
                client,
                model,
                pictures,
                batch=args.batch,
                concurrency=args.concurrency,
                advance=lambda count: bar.advance(bar.task_ids[0], count),
            )


def _class_rows(evaluation: Evaluation) -> Sequence[tuple[Cell, ...]]:
    return [(each.label, Share(each.accuracy), each.correct, each.total) for each in evaluation.classes]


def _evaluation_entry(
    args: argparse.Namespace, evaluation: Evaluation, p50_ms: float, p99_ms: float
) -> dict[str, object]:
    return {
        "dataset": args.dataset,
        "model": evaluation.model.name,
        "version": evaluation.model.version,
        "correct": evaluation.correct,
        "total": evaluation.total,
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(evaluation.interval),
        "seconds": evaluation.seconds,
        "images_per_second": evaluation.images_per_second,
        "latency_ms": {"p50": p50_ms, "p99": p99_ms},
        "batch": args.batch,
        "concurrency": args.concurrency,
        "classes": [
            {"label": each.label, "correct": each.correct, "total": each.total, "accuracy": each.accuracy}
            for each in evaluation.classes
        ],
    }


def _write_json(output: Output, document: dict[str, object]) -> None:
    output.line(json.dumps(document, indent=2, ensure_ascii=False))
