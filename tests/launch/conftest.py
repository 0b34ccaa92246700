"""What the tests of many processes share with those of runs."""

from run_fixtures import align, make_folder

__all__ = ["align", "make_folder"]
