"""What is told of single calls: the access log, slow requests, and traces."""
