"""Tests of what is beside the server where it is deployed."""
