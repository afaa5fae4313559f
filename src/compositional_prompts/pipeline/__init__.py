"""What makes a script a stage: its parameters, arguments, progress and timing."""
