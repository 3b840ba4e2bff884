"""`blendin evaluate gsm8k`, with its options: `python benchmarks/gsm8k.py --limit 100`."""

import sys

from blendin.cli.app import app

if __name__ == "__main__":
    app(["evaluate", "gsm8k", *sys.argv[1:]])
