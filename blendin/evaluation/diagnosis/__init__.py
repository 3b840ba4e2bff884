"""Will this base and guide work together? Analysis of a run, and its report."""
