"""What can be wrong with a recipe: its types and ranges, keys that pass through, rules across keys, keys of later."""
