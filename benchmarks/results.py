"""Makes benchmarks/RESULTS.md from runs: `python benchmarks/results.py runs/*`.

It is `blendin report` with that file as its `--out`.
"""

import sys
from pathlib import Path

from blendin.cli.app import app

if __name__ == "__main__":
    app(["report", "--out", str(Path(__file__).with_name("RESULTS.md")), *sys.argv[1:]])
