"""Product photos with a thin label in, rich captions out, and a BLIP-2 that writes them by itself."""
