"""Looking photos up on the page: which it holds, what is said of each, and how true that is."""
