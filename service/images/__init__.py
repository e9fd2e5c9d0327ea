"""Image files become the pixels that a model takes."""
