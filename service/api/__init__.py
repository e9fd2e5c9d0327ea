"""The RPCs: requests checked and turned into arrays, outputs turned into responses."""
