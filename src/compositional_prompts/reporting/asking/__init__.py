"""The page that asks people for labels, offline."""
