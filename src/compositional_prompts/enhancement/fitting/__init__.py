"""How the words of a group are scored: learnt from what is true of some images."""
