"""`blendin evaluate truthfulqa truthfulqa-letter`: likelihoods of given answers, and letters.

Options as there: `python benchmarks/truthfulqa.py --limit 100`.
"""

import sys

from blendin.cli.app import app

if __name__ == "__main__":
    app(["evaluate", "truthfulqa", "truthfulqa-letter", *sys.argv[1:]])
