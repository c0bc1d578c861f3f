<<<<<<< HEAD
"""A user's own pictures: from a folder of any files to look-alikes and a page that shows them."""
=======
"""A user's own pictures and models: from a folder to a page."""
>>>>>>> 0333629
