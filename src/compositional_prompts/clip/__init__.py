"""Contrastive image-text models of open_clip: loading, saving, embedding, pretraining."""
