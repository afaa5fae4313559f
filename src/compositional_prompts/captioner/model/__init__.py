"""BLIP-2: loaded, adapted, and run forward."""
