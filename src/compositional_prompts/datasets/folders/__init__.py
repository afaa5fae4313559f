"""Photos that lie on a disk, in the forms that people keep them in."""
