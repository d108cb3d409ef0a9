"""Tests of merging adapters into one."""
