"""What people look at after a run: one HTML file, the curves, and what a notebook shows."""
