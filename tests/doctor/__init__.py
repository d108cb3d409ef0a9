"""The doctor: what it finds, what it lets pass, and that it runs nothing."""
