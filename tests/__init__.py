"""The suite: `from tests.tiny import ...` works because this is a package."""
