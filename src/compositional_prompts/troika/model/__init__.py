"""Troika's network, its vocabulary, and the folder that a trained one lies in."""
