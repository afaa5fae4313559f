"""Which photos to label next, the page to label them on, and what comes back from it."""
