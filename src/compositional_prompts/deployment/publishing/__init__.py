"""What an export may replace, and how it gets to the hub."""
