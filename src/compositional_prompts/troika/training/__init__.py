"""Training Troika on the images of a catalog."""
