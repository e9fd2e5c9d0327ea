"""What the report beside a model file tells: how fast the bare file was where it was measured (`training.report`)."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

REPORT_NAME = "report.json"
MOST_BYTES = 8 << 20
"""A larger file is no report."""


@dataclass(frozen=True)
class MeasuredRates:
    """Images a second in ONNX Runtime; None where no report tells."""

    alone: float | None = None
    """In runs of one."""
    batched: float | None = None
    """In runs of 64."""


def read_rates(model: Path) -> MeasuredRates:
    """Read them from the report beside a model file. A report of another file, or a broken one, tells nothing."""
    path = model.with_name(REPORT_NAME)
    try:
        if path.stat().st_size > MOST_BYTES:
            return MeasuredRates()
        cost = json.loads(path.read_bytes())["cost"]
        if cost["bytes"] != model.stat().st_size:
            return MeasuredRates()
        return MeasuredRates(*(_rate(cost["images_per_s"].get(batch)) for batch in ("1", "64")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return MeasuredRates()


def _rate(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None
