"""Words of altered photos: whether they stay, and what probes learn of them."""
