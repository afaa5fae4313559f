"""Two revisions of the project side by side, on the same photos."""
