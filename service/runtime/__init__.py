"""Model files, opened, proved and run by ONNX Runtime."""
