"""One module a data set, and the registry of them."""
