"""What the tests of studies share with those of runs."""

from run_fixtures import align, finished, make_folder

__all__ = ["align", "finished", "make_folder"]
