"""Tests of networks, training, export and parity, on the real data sets."""

import os

# OpenMP's threads spin while they wait, by default. On a machine with other work that made these tests ten times slower
# than sleeping does. It is read when PyTorch is loaded, which is after this, and by the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
