"""What the tests of documentation share with those of runs."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent.parent / "run")]

from run_fixtures import align, finished, make_folder

__all__ = ["align", "finished", "make_folder"]
