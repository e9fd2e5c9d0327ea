"""Training, export and proof: from a PyTorch network to one self-describing ONNX file.

This package knows nothing of the service; the two meet in the file ``models/<name>/<version>/model.onnx``.
"""

import os

# ONNX Runtime's wheels from 1.29 on send usage data by default on Linux. The variable is read when onnxruntime is
# imported, so it is set here, before any module of this package can import it. A user who wants it sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
