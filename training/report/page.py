"""The page about a model, for people: Markdown from the content of its report.json, and from nothing else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..command import RUN
from ..data import TITLES
from ..recipes import current_names
from .wilson import interval

DATASETS = TITLES
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "muon": "Muon"}
# Names of classes that are listed; of more, only how many there are is said.
LISTED_CLASSES = 20

LEARNING = (
    "Training metrics are means over an epoch's images as they were trained on, augmented where the recipe says so, by "
    "weights that still changed; the others were measured at its end."
)
MISTAKES = (
    "Wrong predictions of the highest probability, each with that, and below it the right class:",
    "![Wrongly predicted test images](mistakes.png)",
)
TAIL = (
    "Everything was measured on the file itself with ONNX Runtime, over the whole sets, without augmentation. After an "
    "accuracy stands its 95 % interval (Wilson's). [report.json](report.json) has the figures for programs. "
    f"`{RUN}.report` measures anew and writes this page."
)


def render(report: Mapping[str, Any]) -> str:
    """Write the page; its figures are named as files beside it."""
    metadata, test = report["facts"], report["test"]
    parts = [
        f"# {metadata['name']}",
        _head(report),
        _table(_facts(report)),
        *_learning(report),
        "## What it gets wrong",
        _confusions(test["confusion"], metadata["labels"]),
        "![How many images of each class got each prediction](confusion.png)",
        *(MISTAKES if test["correct"] < test["images"] else ()),
        "## What its probabilities mean",
        _calibration(report),
        "![Accuracy against confidence](calibration.png)",
        "## How it was made",
        f"    {report['training']['command']}",
        _making(report),
        TAIL,
    ]
    return "\n\n".join(parts) + "\n"


def summarise(recipe: Mapping[str, Any]) -> str:
    """Put the numbers of a recipe, as `Recipe.to_dict` or a file's metadata gives them, in one line."""
    recipe = current_names(recipe)
    parts = [f"{OPTIMIZERS[recipe['optimizer']]} {recipe['learning_rate']:g}"]
    if recipe["momentum"]:
        parts.append(f"momentum {recipe['momentum']:g}")
    if recipe.get("sgd_learning_rate"):
        parts.append(f"{recipe['sgd_learning_rate']:g} by SGD for what is no kernel")
    if recipe["weight_decay"]:
        parts.append(f"weight decay {recipe['weight_decay']:g}")
    if recipe["cosine"]:
        parts.append("cosine with warm-up" if recipe["warmup"] else "cosine")
    if recipe.get("linear_decay"):
        parts.append(f"falling to zero over the last {recipe['linear_decay']:.0%}, with warm-up")
    parts += [f"batch {recipe['batch']}", f"{recipe['epochs']} epoch{'s' if recipe['epochs'] > 1 else ''}"]
    parts += [
        form.format(recipe[key])
        for key, form in {
            "translation_pixels": "translation by up to {} pixels",
            "flip": "horizontal flip",
            "alternating_flip": "in every second epoch",
            "cutout_pixels": "cutout of {} pixels",
            "rotation_degrees": "rotation by up to {:g}°",
            "scale": "scale by up to {:.0%}",
            "shear": "shear by up to {:g}",
            "elastic_pixels": "elastic distortion by up to {:g} pixels",
            "color_jitter": "color jitter of up to {:.0%}",
            "mixup": "mixup by shares of Beta({0:g}, {0:g})",
            "unaugmented_epochs": "only translation, flip and cutout in the last {} epochs",
            "teacher": "distilled from {}",
            "taught_by": "distilled from the file of {}",
            "views": "of {} fixed views of each image",
            "distillation_weight": "which is {:.0%} of the loss",
            "distillation_temperature": "at temperature {:g}",
            "label_smoothing": "label smoothing {:g}",
            "ema_decay": "EMA of the weights with decay {:g}",
            "validation": "{:,} images held out",
            "hold_out_test_set": "test set held out until the end",
            "start": "from the weights of {}",
            "frozen_epochs": "the new head alone in the first {} epochs",
            "patience": "ended {} epochs after the least validation loss",
        }.items()
        if recipe.get(key)  # a file may be older than one of these
    ]
    if recipe.get("lanes", 1) != 1:
        parts.append(f"batch norm over {recipe['lanes']} parts of a batch")
    if recipe.get("body_rate", 1.0) != 1.0:
        parts.append(f"layers below the head at {recipe['body_rate']:.0%} of the rate")
    return ", ".join([*parts, f"seed {recipe['seed']}", recipe["precision"]])


def percent(share: float) -> str:
    """Write a share as a percentage with two decimals: more would be below one image of ten thousand."""
    return f"{share * 100:.2f} %"


def accuracy(score: Mapping[str, Any]) -> str:
    """Write an accuracy in percent with its interval, from the counts of a score."""
    low, high = interval(score["correct"], score["images"])
    return f"{percent(score['correct'] / score['images'])} ({low * 100:.2f} to {high * 100:.2f})"


def size(count: int) -> str:
    """Write a number of bytes."""
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def escape(text: str) -> str:
    """Keep a text that a user chose, such as the name of a class, from being taken for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#&$~])", r"\\\1", " ".join(text.split()))


def _head(report: Mapping[str, Any]) -> str:
    metadata, test = report["facts"], report["test"]
    text = (
        f"{_kind(metadata)} that classifies **{percent(test['accuracy'])}** "
        f"of {test['images']:,} test images rightly, with {metadata['parameters']:,} parameters."
    )
    if report["variant"] is not None:
        original, lost = report["variant"]["of"], report["variant"]["accuracy_lost"]
        compared = f"{abs(lost) * 100:.2f} points {'less' if lost > 0 else 'more'} accurate" if lost else "as accurate"
        text += (
            f" It is [{original}](../../{original}/1/README.md) in {metadata['precision']}: {compared}, with the same "
            f"prediction for {percent(report['variant']['agreement'])} of these images."
        )
    return text


def _kind(metadata: Mapping[str, Any]) -> str:
    """Say what kind of network it is, and for which images; what others made is known by its name only."""
    title = DATASETS.get(metadata["dataset"], escape(metadata["dataset"]))
    if "recipe" in metadata and ":" not in metadata["network"]:
        return f"A convolutional network for {title}"
    images = "" if metadata["dataset"] == "own" else f" for {title}"
    return f"A network of type {escape(metadata['network'])}{images}"


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    metadata, test, cost = report["facts"], report["test"], report["cost"]
    labels = metadata["labels"]
    names = f": {', '.join(map(escape, labels))}" if len(labels) <= LISTED_CLASSES else ""
    known = sorted((c for c in test["classes"] if c["images"]), key=lambda c: (c["accuracy"], c["label"]))
    speed = [f"{rate:,.0f} in runs of {batch}" for batch, rate in cost["images_per_s"].items()]
    rows = [
        ("network", f"`{metadata['network']}`: {metadata['architecture']}"),
        ("input", f"`images`, uint8 [batch, {', '.join(map(str, report['image_shape']))}]"),
        ("classes", f"{len(labels)}{names}"),
        ("test accuracy", f"{accuracy(test)}: {test['correct']:,} of {test['images']:,} images"),
        ("weakest class", f"{escape(known[0]['label'])}, {accuracy(known[0])}"),
        ("strongest class", f"{escape(known[-1]['label'])}, {accuracy(known[-1])}"),
    ]
    rows += [
        (f"{part} accuracy", f"{accuracy(report[part])} of {report[part]['images']:,} images")
        for part in ("validation", "train")
        if report[part] is not None
    ]
    products = cost["multiply_accumulates"]
    rows += [
        ("test loss", f"{test['loss']:.4f} nats"),
        ("calibration error", percent(report["calibration"]["after"]["error"])),
        ("parameters", f"{metadata['parameters']:,}, {metadata['precision']}"),
        ("multiply-accumulates", "not counted" if products is None else f"{products:,} an image"),
        ("size", size(cost["bytes"])),
        ("images/s", f"{', '.join(speed)} (CPU: {cost['processor']}, {cost['threads']} threads)"),
    ]
    if report["variant"] is not None:
        rows.append(("tolerance", f"its probe's logits must be met within {report['variant']['tolerance']:g}"))
    return rows


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _learning(report: Mapping[str, Any]) -> list[str]:
    """Give the section with the curves; a variant has none, because nothing was trained for it."""
    if report["variant"] is not None or not report["facts"]["history"]:
        return []
    return ["## How it learned", LEARNING, "![Loss and accuracy against epochs](curves.png)"]


def _confusions(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    cells = [
        (images, -true, -given)
        for true, row in enumerate(matrix)
        for given, images in enumerate(row)
        if images and true != given
    ]
    if not cells:
        return "It gets every test image right."
    worst = [
        f"{escape(labels[-true])} for {escape(labels[-given])} ({images:,})"
        for images, true, given in sorted(cells, reverse=True)[:3]
    ]
    return f"Most often it takes {', '.join(worst)}."


def _calibration(report: Mapping[str, Any]) -> str:
    found = report["calibration"]
    before, after = percent(found["before"]["error"]), percent(found["after"]["error"])
    text = "The calibration error is how far, on average, the probability of a prediction lies from the share of "
    text += "predictions that are right at that probability. "
    if report["validation"] is None and "recipe" not in report["facts"]:
        text += f"Here it is {after}. No temperature was fitted on images that were held out."
    elif report["validation"] is None:
        text += f"Here it is {after}. No temperature was fitted, for the recipe holds out no images for that."
    else:
        text += (
            f"It is {before} for the softmax of the logits, and {after} for the file's probabilities, whose logits are "
            f"divided by a temperature of {found['temperature']:g}, fitted on the validation images."
        )
    if found["after"]["error"] > found["before"]["error"]:
        text += " On these test images the temperature makes it worse."
    return text + " A bar is the accuracy's 95 % interval."


def _making(report: Mapping[str, Any]) -> str:
    metadata, training = report["facts"], report["training"]
    versions = ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())
    if "recipe" not in metadata:
        made = f"The file was made with the code of commit `{metadata['commit']}` and {versions}."
        return f"It was trained elsewhere. {made}"
    teacher = ", its teacher's training not" if metadata["recipe"].get("teacher") else ""
    # A file may be older than the name of what it was trained on.
    place = f", on {metadata['trained_on']}. The file was made" if "trained_on" in metadata else ","
    text = (
        f"{summarise(metadata['recipe'])}. Training took {_duration(training['seconds'])} by the clock, pauses of its "
        f"process included{teacher}{place} with the code of commit `{metadata['commit']}` and {versions}."
    )
    if metadata.get("trained_in", metadata["recipe"]["precision"]) != metadata["recipe"]["precision"]:
        text += " It was computed in float32: the processor would only have emulated bfloat16."
    if report["variant"] is not None:
        text = f"Its network was trained as {report['variant']['of']}: {text}"
    return text


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    hours, minutes = divmod(round(seconds / 60), 60)
    return (f"{hours} h " if hours else "") + f"{minutes} min"
