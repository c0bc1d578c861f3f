"""Siamese networks from scratch: towers, heads, losses, batches and training with Keras's own `fit`."""

from tll_utils.siamese import heads, towers  # noqa: F401  # registers what saved models are made of
