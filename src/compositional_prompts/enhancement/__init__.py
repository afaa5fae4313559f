"""What the enhanced prompt says of an image: the words CLIP chooses, and how well it chooses."""
