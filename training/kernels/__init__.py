"""What PyTorch does not have, or has slower: the Muon optimizer."""
