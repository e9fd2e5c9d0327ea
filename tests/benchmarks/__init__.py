"""The benchmarks, with tiny budgets against real servers; no test depends on how fast they are."""
