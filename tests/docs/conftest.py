"""What the tests of documentation share with those of runs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from run_fixtures import align, finished, make_folder

__all__ = ["align", "finished", "make_folder"]
