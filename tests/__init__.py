"""The tests: real servers, real clients, real data."""
