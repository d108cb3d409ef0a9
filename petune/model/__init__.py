"""Where adapters act: backbone, sites, heads, bank, routing, merging. It knows tensors, no texts and no files."""
