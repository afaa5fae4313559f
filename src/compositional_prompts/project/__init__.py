"""What looks after a checkout: the whole params.yaml, presets, dependencies of stages."""
