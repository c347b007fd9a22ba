"""Readers of the data sets that come as files: getting the files, checking them, and making tensors of them."""
