"""Where an adapter rests: the adapter file, its exports, checkpoints, and peft's format."""
