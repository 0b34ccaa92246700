"""What the tests of the command line share with those of runs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from run_fixtures import align, finished, finished_copy, make_folder

__all__ = ["align", "finished", "finished_copy", "make_folder"]
