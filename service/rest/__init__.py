"""The HTTP door: the Open Inference Protocol and our own API as HTTP, and a page."""
