"""What sections and their rules are written with: what a section is, a view of a faulty recipe, looks at the disk."""
