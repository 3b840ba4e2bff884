"""The decode loop, and everything around it that runs sequences."""
