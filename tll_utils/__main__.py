"""`python -m tll_utils`."""

from tll_utils.cli import main

main()
