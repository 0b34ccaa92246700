"""What the rules of the sections are written with: a view of a recipe that may be faulty, and looks at the disk."""
