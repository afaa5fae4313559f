"""How close generated captions come to the enhanced prompts and to what is known to be true."""
