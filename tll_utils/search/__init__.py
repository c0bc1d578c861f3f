"""A user's own pictures and models: from a folder to a page."""
