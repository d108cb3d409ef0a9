"""What a training step costs, beside the floors and beside peft with the transformers Trainer."""
