"""Commands in processes of their own, as the tests of runs have them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "run"))

from run_fixtures import align

__all__ = ["align"]
