"""Many weight changes into one: low-rank algebra, pruning, sign election, compression, heads."""
