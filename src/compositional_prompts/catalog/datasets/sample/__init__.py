"""The offline `sample` data set: rendered product photos of shoes with exact labels."""
