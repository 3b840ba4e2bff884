"""One step's mathematics: tensors in, tensors out."""
