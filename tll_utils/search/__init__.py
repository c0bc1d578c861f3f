"""A user's own pictures and models: from a folder of pictures to a page of look-alikes, from a fit to a file."""
