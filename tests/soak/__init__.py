"""The soak: many mixed requests and faults against the real server, with each answer checked."""
