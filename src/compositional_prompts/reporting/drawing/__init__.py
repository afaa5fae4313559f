"""Charts, the drawing of the pipeline, and thumbnails."""
