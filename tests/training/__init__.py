"""The training room and the checkpoints."""
