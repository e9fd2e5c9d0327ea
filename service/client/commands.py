"""The commands: each asks a server, writes a table or one JSON document, and returns the exit code."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from .aio import AsyncClient
from .class_folder import read_class_folder
from .connection import environment_token
from .dataset import TEST_SETS
from .download import fetch, missing
from .errors import UnusablePicture
from .evaluation import OWN, Evaluation, choose_model, evaluate
from .results import Classification, ModelSummary, Result
from .sync import Client
from .tables import Cell, Output, Share

FROM_INPUT = "-"
"""Stands for an image on standard input."""


def classify(args: argparse.Namespace, output: Output) -> int:
    """Write what each image shows; 1 where one of them could not be used."""
    names: list[str] = args.pictures
    if names.count(FROM_INPUT) > 1:
        raise UnusablePicture("standard input, '-', holds one image: name it once")
    pictures = [sys.stdin.buffer.read() if name == FROM_INPUT else Path(name) for name in names]
    with Client(args.address, timeout_s=args.timeout_s, tls=args.tls, token=environment_token()) as client:
        results = client.classify(
            pictures, model=args.model, version=args.version, top_k=args.top_k, logits=args.logits, shrink=args.shrink
        )
    if args.json:
        entries = [_picture_entry(name, result) for name, result in zip(names, results, strict=True)]
        output.json({"model": args.model, "pictures": entries})
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


def dataset(args: argparse.Namespace, output: Output) -> int:
    """Send a test set through the server and write how it did."""
    known = args.dataset in TEST_SETS
    with Client(args.address, timeout_s=args.timeout_s, tls=args.tls, token=environment_token()) as client:
        model = choose_model(
            client.list_models(), dataset=args.dataset if known else OWN, name=args.model, target=args.address
        )
    if known and not args.no_download:
        _fetch_missing(args)
    evaluation = asyncio.run(_evaluate(args, model))
    p50_ms, p99_ms = evaluation.latency_ms(50), evaluation.latency_ms(99)
    if args.json:
        output.json(_evaluation_entry(args, evaluation, p50_ms, p99_ms))
        return 0
    output.table(("class", "accuracy", "correct", "of"), [[row] for row in _class_rows(evaluation)])
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


def _fetch_missing(args: argparse.Namespace) -> None:
    console = Output(stderr=True)
    for file in missing(args.dataset, args.data_dir):
        console.line(f"{args.data_dir / file.path} is missing and is fetched ({file.archive})")
        with console.progress(file.archive, None, in_bytes=True) as bar:
            fetch(args.dataset, file, args.data_dir, mirror=args.data_mirror, bar=bar)


async def _evaluate(args: argparse.Namespace, model: ModelSummary) -> Evaluation:
    known = TEST_SETS.get(args.dataset)
    found = known.read(args.data_dir) if known else read_class_folder(Path(args.dataset), model.labels)
    images = found.first(args.limit)
    bar = Output(stderr=True).progress(args.dataset, len(images.labels))
    async with AsyncClient(
        args.address, timeout_s=args.timeout_s, tls=args.tls, max_call_images=args.batch, token=environment_token()
    ) as client:
        with bar:
            return await evaluate(
                client,
                model,
                images,
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
