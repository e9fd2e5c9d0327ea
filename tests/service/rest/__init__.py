"""The HTTP interface, asked by a real server's clients."""
