"""The command line: its door, its exit codes, its commands."""
