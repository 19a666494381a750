"""The train step, the loop around it and its checkpoints."""
