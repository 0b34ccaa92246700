"""Commands in processes of their own, as the tests of runs have them."""

from run_fixtures import align

__all__ = ["align"]
