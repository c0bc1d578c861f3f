"""What is given: images, pairs, candidate lists, folds, and the report's pair table."""
