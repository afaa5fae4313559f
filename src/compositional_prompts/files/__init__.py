"""Files that appear whole, and files from elsewhere: downloads, archives, the hub."""
