"""The tests mirror the packages; what several share lies here."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, each of which has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch and NumPy when they are first imported
