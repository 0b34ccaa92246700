"""Artifacts: the records that a run writes, and the store that writes them whole or not at all."""
