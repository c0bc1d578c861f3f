"""Small shared package behind the notebooks: dataset → embedding → S → evaluation → submission."""
