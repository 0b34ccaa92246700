"""What the tests of runs share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from run_fixtures import align, finished, finished_copy, make_folder, three_rounds

__all__ = ["align", "finished", "finished_copy", "make_folder", "three_rounds"]
