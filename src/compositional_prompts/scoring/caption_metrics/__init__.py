"""Metrics of image captioning that need more than a pair of texts, or no library has soundly."""
