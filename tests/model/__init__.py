"""Tests of the model room: sites, hooks, and architectures outside of the table."""
