"""What is asked and how answers are scored: the benchmarks, their data and their judges."""
