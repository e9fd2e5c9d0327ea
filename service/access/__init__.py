"""Who may call what: bearer tokens, their rights and their limits."""
