"""What stages that compute share: devices, processes, checkpoints, ordered maps."""
