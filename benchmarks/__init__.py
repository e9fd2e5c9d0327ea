"""What the service reaches, beside what its transport and its model would reach alone."""
