"""Engines: what generates text. Each takes token ids with seeds and gives token ids with log-probabilities."""
