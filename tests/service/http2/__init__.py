"""Our own HTTP/2."""
