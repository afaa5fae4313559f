"""Rows computed once: what computes them, what keeps them, and what runs over them."""
