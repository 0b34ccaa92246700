"""A recipe as it was written: YAML and overrides become values with the places that they stand at."""
