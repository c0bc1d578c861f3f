"""Totally Looks Like: a course report in notebooks, and the small package they share.

Where to read, from a data set to a method by name: data/dataset.py → data/folds.py → features/embedding.py →
features/catalogue.py → methods/base.py → methods/adapters.py → methods/registry.py.
"""

import lazy_loader

# Imported on first use: TensorFlow takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["similarity"],
    submod_attrs={
        "data.dataset": ["load_dataset"], "data.folds": ["headline_folds"], "data.pairs": ["pair_table"],
        "evaluation.metrics": ["expected_topk", "topk_accuracy"],
        "evaluation.statistics": ["bootstrap_interval", "paired_test"],
        "features.backbones": ["backbone"], "features.catalogue": ["Features"], "features.embedding": ["embed"],
        "methods.registry": ["METHODS", "get_entry", "get_method"],
        "report.experiments": ["EXPERIMENTS", "run_methods"],
        "report": ["plots", "results"], "search.saving": ["load", "save"],
    },
)  # fmt: skip
