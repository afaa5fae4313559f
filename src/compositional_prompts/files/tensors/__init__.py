"""The numbers of a model: what its files hold, before a library reads them."""
