"""``convserve pull`` brings a model from a registry, a bucket or a folder into the models folder."""
