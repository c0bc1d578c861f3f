"""Numbers → recorded results, tables, figures and files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["plots", "results"])
