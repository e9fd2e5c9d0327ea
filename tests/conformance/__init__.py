"""What RFC 9113, RFC 7541 and gRPC's protocol document ask of a server, case by case."""
