"""What the tests of pairing share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from drawn import draw

__all__ = ["draw"]
