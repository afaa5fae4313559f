"""From product photos with a thin label to rich captions, and a BLIP-2 that writes them."""
