"""What stages measured, and which of it decides."""
