"""Tests of what brings models."""
