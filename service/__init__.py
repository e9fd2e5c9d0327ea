"""Serve ONNX models over gRPC: the Open Inference Protocol, and an image classifier of our own."""

import os

# ONNX Runtime's wheels send usage data by default; it reads this once, at import, so it is set
# before any module of the package can import it. Nothing calls home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
