"""What the captioner is fed from: cached features of the frozen half, or pixels."""
