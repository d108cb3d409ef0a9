"""Where adapters act: backbone, sites, heads, bank, routing, merging. This room knows tensors, no texts and no files."""
