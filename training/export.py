"""`python -m training.export`: train what has no finished checkpoint, export it, prove it, then put it in place.

The command line is described in `arguments`, the steps for one network are in `pipeline`, and the checks in
`publication`. Whatever fails, or is interrupted, leaves the models folder as it was.
"""

import sys
from collections.abc import Sequence

from training import arguments, interrupt


def main(line: Sequence[str] | None = None) -> int:
    """Run ``python -m training.export``; gives the exit status: 0, 1 (a sentence says why), or 130 (interrupted)."""
    chosen = arguments.read(line)
    with interrupt.ends_at_once():  # PyTorch and ONNX Runtime take seconds to import
        from training import pipeline
    return pipeline.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
