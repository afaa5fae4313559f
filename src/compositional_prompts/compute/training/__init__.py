"""What trainings share: epochs and their curve, checkpoints, optimizers and dropout."""
