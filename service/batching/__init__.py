"""Many small requests become few large runs. Knows neither gRPC nor ONNX."""
