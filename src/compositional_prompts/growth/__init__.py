"""A catalogue that grows beside models that stay: what they are sure of, and what is new."""
