"""A training loop over random mini-batches of a sharded array, with PyTorch or without."""
