"""Captions from features: beam search, sampling, grammars."""
