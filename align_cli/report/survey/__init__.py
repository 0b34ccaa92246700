"""A source of data in figures: what `align data` shows, and nothing that needs a model's weights."""
