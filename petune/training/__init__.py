"""HOW it learns: the loop, the optimizer, evaluation, callbacks and the reports."""
