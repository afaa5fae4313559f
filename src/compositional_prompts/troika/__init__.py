"""Troika: naming attribute and object of an image, and how well it does on unseen pairs."""
