"""What Prometheus reads: counted in plain ints, merged over workers, written by prometheus-client."""
