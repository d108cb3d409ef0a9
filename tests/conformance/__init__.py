"""The laws of the design: what every method keeps to, on every family and task of the covering array."""
