"""Compositional zero-shot metrics in the closed and the open world."""
