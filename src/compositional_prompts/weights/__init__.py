"""The pretrained models, from whichever source."""
