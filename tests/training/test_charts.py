"""Figures of the expected size for every number of classes, epochs and mistakes; the same figures, the same bytes."""

import io
import math
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from training.calibration import bins, expected_calibration_error
from training.report import charts
from training.report.wilson import interval

# A page of four such figures loads at once.
MOST_BYTES = 64 * 1024
RANDOM = np.random.default_rng(0)


def opened(content: bytes) -> Image.Image:
    """Open a figure as any viewer does, after a look at its format and size on disk."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) < MOST_BYTES
    image = Image.open(io.BytesIO(content))
    image.load()
    assert image.info.keys().isdisjoint({"Software", "Creation Time"})
    return image


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    found = image.convert("RGB").getcolors(100_000)
    assert found is not None
    return {colour for _, colour in found if isinstance(colour, tuple)}


def has(image: Image.Image, colour: str) -> bool:
    """Tell whether a colour, as lines are drawn in it, is in a figure, give or take what 256 colours cost."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return any(np.abs(wanted - np.array(found)).max() <= 6 for found in colours(image))


def epoch(*, validated: bool = False, tested: bool = False) -> dict[str, float | None]:
    figures: dict[str, float | None] = {"loss": 0.3, "accuracy": 0.9, "seconds": 1.0}
    for part, measured in (("validation", validated), ("test", tested)):
        figures |= {f"{part}_loss": 0.4 if measured else None, f"{part}_accuracy": 0.8 if measured else None}
    return figures


@pytest.mark.parametrize("epochs", [1, 2, 24, 200])
def test_curves_show_what_was_measured(epochs: int) -> None:
    """Curves show the sets that were measured."""
    full = opened(charts.curves([epoch(validated=True, tested=True)] * epochs))
    assert full.size == (960, 384)
    assert [has(full, colour) for colour in (charts.BLUE, charts.ORANGE, charts.GREEN)] == [True, True, True]
    tested = opened(charts.curves([epoch(tested=True)] * epochs))
    assert [has(tested, colour) for colour in (charts.BLUE, charts.ORANGE, charts.GREEN)] == [True, False, True]


def test_curve_begins_at_first_measurement() -> None:
    """A curve begins where its set was first measured.

    As in a recipe whose first images are small: the line is in the right half of each plot.
    """
    late = opened(charts.curves([epoch()] * 30 + [epoch(validated=True)] * 20))
    left, right = (late.crop(box) for box in ((0, 0, 250, 384), (250, 0, 480, 384)))
    assert has(right, charts.ORANGE)
    assert not has(left, charts.ORANGE)


@pytest.mark.parametrize("classes", [2, 10, 20, 21, 43, 100])
def test_confusion_matrix_of_any_size(classes: int) -> None:
    """A confusion matrix of any number of classes is drawn.

    Names that are long, in letters that the font lacks, or mathematics to a typesetter, are names all the same.
    """
    names = ["a rather long name of a class", "$x^", "猫", "under_score"]
    matrix = RANDOM.binomial(50, 0.02, (classes, classes)) + np.diag([400] * classes)
    matrix[0] = 0  # a class without test images
    figure = opened(charts.confusion(matrix, [f"{names[i % 4]}{i}" for i in range(classes)]))
    assert figure.size == (840, 744)


def test_names_in_any_script() -> None:
    """A name is drawn where an installed font has its letters; where none has, the number of the class is."""
    diagonal = np.diag([5, 5])
    drawn = {
        name: charts.confusion(diagonal, [name, "cat"])
        for name in ("кошка", "γάτα", "\U0001d504", "class 0", "\U00013080")
    }
    assert drawn["\U00013080"] == drawn["class 0"]  # a hieroglyph
    assert len(set(drawn.values())) == 4


@pytest.mark.parametrize(("correct", "images"), [(0, 5), (5, 5), (1, 3), (8_408, 10_000), (9_971, 10_000)])
def test_wilson_interval_is_its_definition(correct: int, images: int) -> None:
    """At each end the share lies 1.96 standard deviations away: those of a binomial whose share is that end."""
    for end in interval(correct, images):
        reach = 1.959964 * math.sqrt(end * (1 - end) / images)
        assert abs(end - correct / images) == pytest.approx(reach, abs=1e-9)


def test_confusion_matrix_is_dark_at_images() -> None:
    """A confusion matrix is dark where the images are."""
    right = opened(charts.confusion(np.diag([500, 500]), ["cat", "dog"])).convert("L")
    wrong = opened(charts.confusion(np.diag([500, 500])[::-1], ["cat", "dog"])).convert("L")
    places = [(120, 100), (500, 100), (120, 500), (500, 500)]  # inside each of the four cells, beside its number
    assert [right.getpixel(place) < 128 for place in places] == [True, False, False, True]  # type: ignore[operator]
    assert [wrong.getpixel(place) < 128 for place in places] == [False, True, True, False]  # type: ignore[operator]


def test_calibration_before_and_after() -> None:
    """Calibration is drawn before and after or once."""
    labels = RANDOM.integers(0, 3, 500)
    found = {}
    for name, sharpness in (("before", 0.2), ("after", 1.0)):
        probabilities = RANDOM.dirichlet([sharpness] * 3, 500).astype(np.float32)
        error = expected_calibration_error(probabilities, labels)
        found[name] = {"error": error, "bins": [asdict(part) for part in bins(probabilities, labels)]}
    both = opened(charts.calibration(found))
    once = opened(charts.calibration({"before": found["before"]}))
    assert both.size == once.size == (840, 744)
    assert (has(both, charts.BLUE), has(both, charts.ORANGE)) == (True, True)
    assert (has(once, charts.BLUE), has(once, charts.ORANGE)) == (True, False)


def test_curves_near_the_end_spread() -> None:
    """Between 99 and 99.9 % lies much of the plot where a curve comes there, and nothing where it does not."""

    def height(accuracies: list[float]) -> int:
        figures = [epoch() | {"accuracy": accuracy, "loss": 1 - accuracy} for accuracy in accuracies]
        pixels = np.array(opened(charts.curves(figures)).convert("RGB"))[:, 560:].astype(int)
        blue = np.abs(pixels - (0, 114, 178)).max(2) < 6
        rows = np.flatnonzero(blue[:, -130:].any(1))  # right of most epochs
        return int(rows.max() - rows.min())

    assert height([0.3, 0.5, 0.7, 0.98, 0.99, 0.999]) > 90
    assert height([0.3, 0.5, 0.7, 0.848, 0.849, 0.85]) < 60


@pytest.mark.parametrize(("count", "rows"), [(0, 1), (1, 1), (6, 1), (7, 2), (24, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_mistakes_fill_needed_rows(count: int, rows: int, channels: int) -> None:
    """Mistakes fill as many rows as they need."""
    images = RANDOM.integers(0, 256, (count, 32, 32, channels), dtype=np.uint8)  # noise: nothing packs worse
    probabilities = RANDOM.dirichlet([1.0] * 5, count).astype(np.float32).reshape(count, 5)
    figure = opened(charts.mistakes(images, np.zeros(count, np.int64), probabilities, ["a" * 40, "b", "$", "猫", "e"]))
    assert figure.size == (960, 192 * rows)
    assert len(colours(figure)) > 2


def test_same_numbers_give_same_bytes() -> None:
    """The same numbers give the same bytes."""
    matrix = RANDOM.integers(0, 50, (10, 10))
    assert charts.confusion(matrix, list("abcdefghij")) == charts.confusion(matrix, list("abcdefghij"))
    history = [epoch(validated=True)] * 5
    assert charts.curves(history) == charts.curves(history)
