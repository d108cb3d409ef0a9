"""Tests of `petune.tasks`."""
