"""Products as a shop exports them: their photos by address, their labels in options and columns."""
