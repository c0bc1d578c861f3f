"""A user's own pictures: from a folder of any files to look-alikes and a page that shows them."""
