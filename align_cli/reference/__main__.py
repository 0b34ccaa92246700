"""`python -m align_cli.reference FOLDER` writes the reference pages there: what `make docs` runs."""

from __future__ import annotations

import sys
from pathlib import Path

from align_cli.reference import PAGES


def main(folder: Path) -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
