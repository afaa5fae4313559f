"""The colours of products, measured in their pixels, and what colours words mean."""
