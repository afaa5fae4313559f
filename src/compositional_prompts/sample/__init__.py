"""Drawing the generated sample: shoes with labels that are right by construction."""
