"""Studies: every combination of some keys and every seed through the ordinary loop, and what that says."""

STUDY = "study.yaml"
"""The file by which a study's folder is told from a run's: asked for by commands that load nothing else of studies."""
