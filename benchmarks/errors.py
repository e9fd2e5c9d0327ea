"""What ends a benchmark early."""


class BenchmarkError(Exception):
    """It cannot be measured, or the responses are wrong: one sentence with the remedy."""
