"""A run: its folder, its plan, what its stages were made from, and going on where it stopped."""
