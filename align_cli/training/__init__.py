"""Training: the only room that imports trl.

Batches go through `methods` to a loss; checkpoints hold what going on needs.
"""
