"""Language models, here or behind servers, and what they have read of each sequence."""
