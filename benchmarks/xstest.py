"""`blendin evaluate xstest`, with its options: `python benchmarks/xstest.py --limit 100`."""

import sys

from blendin.cli.app import app

if __name__ == "__main__":
    app(["evaluate", "xstest", *sys.argv[1:]])
