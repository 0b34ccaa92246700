"""From completions to pairs: one file a source, and what they have in common in `pairs`.

A new source is one file here, its section among the recipe's sources, a line in the table, and a test.
"""
