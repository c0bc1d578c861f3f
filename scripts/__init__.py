"""What runs now and then, from the root of the checkout: `python -m scripts.<name>`, or the targets of the Makefile."""
