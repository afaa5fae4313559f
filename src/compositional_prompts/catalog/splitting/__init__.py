"""Who trains, validates and tests: of products for captions, of pairs for naming."""
