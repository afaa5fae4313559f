"""Data sets of compositional zero-shot learning, in the layout that they share."""
