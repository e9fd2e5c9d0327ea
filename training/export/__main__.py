"""Runs `python -m training.export`."""

import signal
import sys

from . import main

if __name__ == "__main__":
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # there is nothing left to interrupt
    sys.exit(status)
