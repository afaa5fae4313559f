"""What makes a script a stage: its parameters, its arguments, its errors and its timing."""
