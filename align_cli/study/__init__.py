"""Studies: every combination of some keys and every seed through the ordinary loop, and what that says."""
