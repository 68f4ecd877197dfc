"""A dataset in a browser: the page, and the server that draws it from the files."""
