"""Tests of `petune.metrics`."""
