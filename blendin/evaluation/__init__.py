"""Scores of base, guide and blends on benchmarks, and what can be concluded from them."""
