"""The service, from its parts to its life."""
