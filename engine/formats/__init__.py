"""One module a format of files, those that write them, and the one that knows which there are."""
