"""Execution providers, each as it can be set: how exact they are, and how fast."""
