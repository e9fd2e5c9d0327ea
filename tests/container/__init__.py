"""The container: its health check, and a script that builds and runs the image."""
