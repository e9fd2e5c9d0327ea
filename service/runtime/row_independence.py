"""Proof at load that the rows of a model do not depend on each other, so that requests may share a run.

The rule. A model is batched only if all of this holds for made-up rows:

1. Runs of 1, 2 and 3 rows, and of 19 where a row is cheap, give outputs of 1, 2, 3 and 19 rows.
2. A row's outputs are the same bits when all the rows before and behind it are others, in a run of as many rows.
3. They are the same, but for rounding, alone, at another place, and among more or fewer rows.

The second is exact, because equal shapes are computed by equal kernels; providers other than the CPU's get the third's
tolerance. That is a share of the output's largest value, by arithmetic; or what the output moves by when the inputs do
in their last digits. Made-up values: floats of several scales and signs, all of an eight-bit integer, integers within
the vocabulary where a Gather says so and else small ones, words. What cannot be run at all is not batched.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..tensors import Array, TensorSpec
from .graph import Graph
from .run_error import RunError

CHEAP = 1e6
"""Multiply-accumulates of a row up to which it is run in larger company, and with more kinds of values."""
SMALL = 1e5
"""Elements of such a row: 39 of them are made up."""
ALONE, PAIR, TOGETHER, COMPANY = (1,), (2, 1), (0, 1, 2), (3, 1, 4)
CROWD = (0, *range(5, 13), 1, *range(13, 21), 2)
OTHER_CROWD = (0, *range(21, 29), 1, *range(29, 37), 2)
STRANGE = (37, 1, 38)
"""Rows that are no numbers, and one between them."""
COMPARED = (0, 1, 2)
"""Rows whose outputs are compared; the others keep them company. Their values are of a narrower range."""
FEW, ALL = 5, 39
"""Rows that are made up, without a crowd and with one."""
LENGTHS = (6, 64, 224, 1)
"""Lengths to try for free axes but the first: a network of images wants more than a sequence does."""
SMALL_INTEGERS = (8, 2, 1)
"""How many integers from 0 on to try where nothing tells of a vocabulary."""
WORDS = ("a", "the", "row", "0", "17", "-1.5", "Zürich", "unknown")
FLOAT32_SHARE, FLOAT16_SHARE, QUANTIZED_SHARE = 1e-4, 2e-2, 0.1
"""What rounding may be of the largest value. An eight-bit step may go another way, and another in the next layer."""
LAST_DIGITS, NOISE = 1e-6, 30
"""How far inputs are moved to see what rounding does, and by how many times that another count of rows may differ."""

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Values:
    """The kind of values that rows are made of."""

    length: int
    """Of free axes."""
    integers: int
    positive: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Model:
    """What the check needs to know of a model."""

    run: Run
    inputs: Sequence[TensorSpec]
    graph: Graph
    exact: bool = True
    """True where equal shapes give equal bits."""
    share: float = 0.0
    """What the provider's arithmetic may be off by, as a share of the largest value."""


class DependentRows(Exception):
    """The rows depend on each other, or it cannot be told; the message is the reason."""


def find_dependence(model: Model, max_rows: int) -> str:
    """Why the rows of this model must not share a run; empty where they may."""
    if model.graph.random_ops:
        return f"it draws random numbers ({', '.join(model.graph.random_ops)}), so no answer can be compared"
    try:
        values = _values_that_run(model)
        floats = any(spec.datatype.numpy.kind == "f" for spec in model.inputs)
        cheap = model.graph.row_cost() <= CHEAP and _elements(model, values) <= SMALL
        telling = _compare(model, values, max_rows, crowd=cheap)
        if floats and (cheap or not telling):
            _compare(model, replace(values, positive=True), max_rows, crowd=cheap)
        if floats and cheap:
            _compare(model, replace(values, scale=50.0), max_rows, crowd=cheap)
    except DependentRows as error:
        return str(error)
    return ""


def _elements(model: Model, values: Values) -> int:
    """Elements of a row of all inputs."""
    return sum(math.prod(_row_shape(spec, values)) for spec in model.inputs)


def _values_that_run(model: Model) -> Values:
    """Values of which one row runs; raises DependentRows where none does."""
    free = any(-1 in spec.shape[1:] for spec in model.inputs)
    reason = ""
    for length, integers in itertools.product(LENGTHS if free else (1,), SMALL_INTEGERS):
        values = Values(length, integers)
        try:
            model.run(_take(_rows(model, values, FEW), ALONE))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = reason or _told(error)
        else:
            return values
    raise DependentRows(f"fails with 1 row: {reason}")


def _compare(model: Model, values: Values, max_rows: int, *, crowd: bool) -> bool:
    """Compares runs of these values; True where outputs were finite and unlike. Raises DependentRows."""
    rows = _rows(model, values, ALL if crowd else FEW)
    alone = _run(model, rows, ALONE)
    if max_rows == 1:
        return True
    pair = _run(model, rows, PAIR)
    _same(model, rows, _at(alone, 0), _at(pair, 1))
    if max_rows == 2:
        return True
    together = _run(model, rows, TOGETHER)
    company = _run(model, rows, COMPANY)
    _same_bits(model, rows, _at(together, 1), _at(company, 1))
    _same(model, rows, _at(alone, 0), _at(together, 1))
    _same(model, rows, _at(pair, 0), _at(together, 2), PAIR[:1])
    if crowd:
        _compare_crowds(model, rows, together, max_rows)
    return all(_tells(output) for output in together.values())


def _compare_crowds(model: Model, rows: Mapping[str, Array], together: Mapping[str, Array], max_rows: int) -> None:
    """Compares rows beside what is no number, and in runs of many."""
    if model.exact:
        _same_bits(model, rows, _at(together, 1), _at(_run(model, rows, STRANGE), 1))
    if max_rows >= len(CROWD):
        crowd, others = _run(model, rows, CROWD), _run(model, rows, OTHER_CROWD)
        for row in COMPARED:
            place = CROWD.index(row)
            _same_bits(model, rows, _at(crowd, place), _at(others, place))
            _same(model, rows, _at(together, row), _at(crowd, place), (row,))


def _tells(output: Array) -> bool:
    """True where the rows of an output are numbers, and not all alike."""
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        return False
    return bool((output[:1] != output).any())


def _run(model: Model, rows: Mapping[str, Array], indices: Sequence[int]) -> dict[str, Array]:
    """The outputs of these rows; raises DependentRows where they are not as many."""
    count = len(indices)
    try:
        outputs = model.run(_take(rows, indices))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        fewer = max((known for known in (1, 2, 3) if known < count), default=0)
        runs = f"runs {fewer} row{'s' * (fewer > 1)}, " if fewer else ""
        raise DependentRows(f"{runs}fails with {count}: {_told(error)}") from error
    for name, output in outputs.items():
        if output.shape[:1] != (count,):
            raise DependentRows(f"output '{name}' has shape {output.shape} for {count} row{'s' * (count > 1)}")
    return outputs


def _same_bits(model: Model, rows: Mapping[str, Array], one: Mapping[str, Array], other: Mapping[str, Array]) -> None:
    """Raises DependentRows where a row's outputs are others in other company."""
    if not model.exact:
        _same(model, rows, one, other)
        return
    for name, expected in one.items():
        if not _equal(expected, other[name]):
            again = _at(_run(model, rows, TOGETHER), 1)[name]
            first = _at(_run(model, rows, TOGETHER), 1)[name]
            if _equal(again, first):
                raise DependentRows(
                    f"a row's output '{name}' changes with the rows beside it{_by(expected, other[name])}"
                )
            _same(model, rows, one, other)  # not even equal runs give equal bits


def _same(
    model: Model,
    rows: Mapping[str, Array],
    one: Mapping[str, Array],
    other: Mapping[str, Array],
    row: Sequence[int] = ALONE,
) -> None:
    """Raises DependentRows where a row's outputs differ by more than rounding."""
    for name, expected in one.items():
        got = other[name]
        if _equal(expected, got) or (model.graph.quantized and expected.dtype.kind in "iu"):
            continue  # the largest of eight-bit values may be several
        off = _difference(expected, got)
        if off <= _allowed(model, expected, got):
            continue
        moved, still, again = (
            _at(model.run(inputs), 0)[name] for inputs in (_moved(_take(rows, row)), _take(rows, row), _take(rows, row))
        )
        if off > NOISE * _difference(moved, still) or not _equal(still, again):
            raise DependentRows(
                f"a row's output '{name}' changes with how many rows run, or with its place among them"
                f"{_by(expected, got)}"
            )


def _allowed(model: Model, expected: Array, got: Array) -> float:
    if expected.dtype.kind != "f":
        return 0.0
    share = FLOAT16_SHARE if expected.dtype.itemsize < 4 else FLOAT32_SHARE
    share = max(share, 4 * model.share, QUANTIZED_SHARE if model.graph.quantized else 0.0)
    if 10 in {weight.element for weight in model.graph.weights.values()}:  # TensorProto.FLOAT16
        share = max(share, FLOAT16_SHARE)
    return share * max(_largest(expected), _largest(got))


def _largest(array: Array) -> float:
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(finite.max(initial=0.0))


def _difference(one: Array, other: Array) -> float:
    """The largest difference of two arrays; infinite where they differ in form, or in what is no number."""
    if one.shape != other.shape or one.dtype.kind not in "fiub":
        return float(not _equal(one, other)) * np.inf if one.shape != other.shape or not _equal(one, other) else 0.0
    left, right = one.astype(np.float64), other.astype(np.float64)
    strange = ~(np.isfinite(left) & np.isfinite(right))
    if not np.array_equal(left[strange], right[strange], equal_nan=True):
        return np.inf
    return float(np.abs(left[~strange] - right[~strange]).max(initial=0.0))


def _equal(one: Array, other: Array) -> bool:
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def _by(one: Array, other: Array) -> str:
    if one.shape != other.shape:
        return f": its shape is {one.shape} or {other.shape}"
    if one.dtype.kind != "f":
        return ""
    return f", by up to {_difference(one, other):.3g} of {max(_largest(one), _largest(other)):.3g}"


def _at(outputs: Mapping[str, Array], place: int) -> dict[str, Array]:
    return {name: output[place] for name, output in outputs.items()}


def _take(rows: Mapping[str, Array], indices: Sequence[int]) -> dict[str, Array]:
    return {name: array[list(indices)] for name, array in rows.items()}


def _moved(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs with the last digits of their floats changed, where they are floats."""
    return {
        name: (array * (1 + max(LAST_DIGITS, float(np.finfo(array.dtype).eps)))).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in inputs.items()
    }


def _rows(model: Model, values: Values, count: int) -> dict[str, Array]:
    """Unlike rows of each input."""
    vocabulary = model.graph.vocabulary()
    random = _Random()
    rows = {}
    for spec in model.inputs:
        rows[spec.name] = _made_up(spec, values, count, vocabulary.get(spec.name), random)
    return rows


def _row_shape(spec: TensorSpec, values: Values) -> tuple[int, ...]:
    return tuple(values.length if axis < 0 else axis for axis in spec.shape[1:])


def _made_up(spec: TensorSpec, values: Values, count: int, vocabulary: int | None, random: "_Random") -> Array:
    shape = (count, *_row_shape(spec, values))
    kind = spec.datatype.numpy.kind
    if spec.datatype.name == "BYTES":
        words: Array = np.array(WORDS, dtype=object)[random.integers(0, len(WORDS), shape)]
        return words
    if spec.datatype.name == "BF16":
        return (_floats(shape, values, random).view(np.uint32) >> 16).astype(np.uint16)
    if kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if kind == "f":
        return _floats(shape, values, random).astype(spec.datatype.numpy)
    if vocabulary is not None:
        low, high = 0, max(1, vocabulary)
    elif spec.datatype.numpy.itemsize == 1 and values.integers == SMALL_INTEGERS[0]:
        limits = np.iinfo(spec.datatype.numpy)
        low, high = int(limits.min), int(limits.max) + 1
    else:
        low, high = 0, 2 if "mask" in spec.name and values.integers > 1 else values.integers
    made = random.integers(low, high, shape).astype(spec.datatype.numpy)
    quarter = (high - low) // 4
    made[list(COMPARED)] = random.integers(low + quarter, high - quarter, (len(COMPARED), *shape[1:]))
    return made


def _floats(shape: tuple[int, ...], values: Values, random: "_Random") -> Array:
    """float32 rows; those that only keep others company are of several scales, from a hundredth to thirty times."""
    array = 0.01 + 0.99 * random.uniform(shape) if values.positive else random.normal(shape)
    scales = np.full(len(array), values.scale)
    company = range(len(COMPARED), min(STRANGE[0], len(array)))
    scales[company] = np.geomspace(30, 0.01, len(company))
    array *= scales.reshape(-1, *[1] * (len(shape) - 1))
    array[STRANGE[0] :] = np.nan
    array[STRANGE[2] :] = np.inf
    rows: Array = array.astype(np.float32)
    return rows


class _Random:
    """Numbers without pattern, by splitmix64 (https://prng.di.unimi.it/splitmix64.c); NumPy's take 7 MB to import."""

    def __init__(self) -> None:
        self._drawn = 0

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Of 0 to 1, both excluded."""
        count = math.prod(shape)
        state = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._drawn += count
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
        uniform: Array = ((state >> np.uint64(12)).astype(np.float64) + 0.5).reshape(shape) / 2.0**52
        return uniform

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Of mean 0 and variance 1, after Box and Muller."""
        normal: Array = np.sqrt(-2 * np.log(self.uniform(shape))) * np.cos(2 * np.pi * self.uniform(shape))
        return normal

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> Array:
        """From ``low`` to below ``high``."""
        numbers: Array = low + np.floor(self.uniform(shape) * (high - low)).astype(np.int64)
        return numbers


def _told(error: Exception) -> str:
    return RunError.parse(str(error).strip() or repr(error)).told
