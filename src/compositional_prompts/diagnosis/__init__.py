"""What is amiss before a run: parameters, installation, machine, project, data and the hub."""
