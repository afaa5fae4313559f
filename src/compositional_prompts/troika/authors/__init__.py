"""Checkpoints of the Troika authors' own code."""
