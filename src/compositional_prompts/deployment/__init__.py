"""What a trained pipeline is for: captions of new photos, and a model to hand on."""
