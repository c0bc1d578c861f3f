"""`python -m scripts.sample [folder]`, by default data/sample of the checkout."""

import sys
from pathlib import Path

from scripts.sample.dataset import draw_sample
from tll_utils.runtime import project_root

if __name__ == "__main__":
    draw_sample(Path(sys.argv[1]) if len(sys.argv) > 1 else project_root() / "data" / "sample")
