"""What trackers are told of a run: W&B, TensorBoard, trackio and MLflow, each one run over all rounds.

    points.py    what is told: a step's figures, a round's evaluation with some of its responses
    base.py      what a tracker is, and what a run is to it
    told.py      all trackers of a run: none is told a point twice, and none that fails ends the run
    on_*.py      one file each, the only importer of its library

A tracker says itself which point it was told last, by what it holds: a killed process may not have got all of it
through. Nothing here is an artifact, and no artifact depends on it.
"""
