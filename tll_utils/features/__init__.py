"""Images → embeddings: extractors by name, the networks behind them, and the cache on disk."""
