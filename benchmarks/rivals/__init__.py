"""Other servers that a user can install, and what runs in their environments."""
