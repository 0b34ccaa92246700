"""Checkpoints: what comes back is what was saved, to the byte."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from align_cli.artifacts import checksums
from align_cli.artifacts.checksums import checksum, member_checksums
from align_cli.errors import AlignError, DataError
from align_cli.models.load import Policy, load_policy
from align_cli.playground.model import make_policy
from align_cli.training.checkpoints import (
    TrainingState,
    read_optimizer_state,
    read_training_state,
    save_checkpoint,
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_policy(folder, 0)
    return folder


def stepped_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


def test_a_loaded_and_saved_checkpoint_has_the_same_bytes(model_folder: Path, tmp_path: Path) -> None:
    policy = load_policy(model_folder)
    optimizer = stepped_optimizer(policy.model)
    state = TrainingState(round=2, global_step=10, parent="abc", scheduler={"last_epoch": 10, "lr_lambdas": [{}]})
    version = save_checkpoint(tmp_path / "one", policy, state, optimizer)

    again = load_policy(tmp_path / "one")
    read = read_training_state(tmp_path / "one")
    assert read is not None
    fresh = torch.optim.AdamW(again.model.parameters(), lr=1.0)
    optimizer_state = read_optimizer_state(tmp_path / "one", read)
    assert optimizer_state is not None
    fresh.load_state_dict(optimizer_state)
    assert save_checkpoint(tmp_path / "two", again, read, fresh) == version == again.version
    assert checksum(tmp_path / "one") == checksum(tmp_path / "two")
    assert fresh.param_groups[0]["lr"] == 1e-3


def test_weights_that_are_saved_and_taken_in_are_read_once(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "LARGE_BYTES", 0)
    monkeypatch.setattr(checksums, "REST_NANOSECONDS", 0)
    read, really = [], checksums._read_digest

    def read_digest(stream: IO[bytes]) -> str:
        read.append(Path(f"/proc/self/fd/{stream.fileno()}").readlink().name)
        return really(stream)

    monkeypatch.setattr(checksums, "_read_digest", read_digest)
    save_checkpoint(tmp_path / "one", load_policy(model_folder), TrainingState(1, 1, None), None)
    read.clear()
    member_checksums(tmp_path / "one")
    assert "config.json" in read
    assert "model.safetensors" not in read


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(model_folder: Path, tmp_path: Path) -> None:
    policy = load_policy(model_folder)
    optimizer = stepped_optimizer(policy.model)
    save_checkpoint(tmp_path / "c", policy, TrainingState(1, 1, None), optimizer)
    again = load_policy(tmp_path / "c")
    state = read_training_state(tmp_path / "c")
    assert state is not None
    fresh = torch.optim.AdamW(again.model.parameters(), lr=1.0)
    fresh.load_state_dict(read_optimizer_state(tmp_path / "c", state) or {})
    for model, stepper in ((policy.model, optimizer), (again.model, fresh)):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        stepper.step()
    for one, other in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_folder_of_somebody_elses_has_no_training_state(model_folder: Path) -> None:
    assert read_training_state(model_folder) is None


@pytest.mark.parametrize(
    "told",
    ["abc", [1, 2, 3], 7, {"begun": 1.0}, {"begun": 0.1, "weight": None, "coefficient": 0.1},
     {"begun": 0.1, "weight": -1.0, "coefficient": 0.1}, {"begun": 0.1, "weight": "1", "coefficient": 0.1}],
)  # fmt: skip
def test_a_control_of_the_kl_that_says_nonsense_is_no_training_state(told: object, tmp_path: Path) -> None:
    document = {"round": 1, "global_step": 2, "parent": None, "scheduler": None, "optimizer": None}
    good = {"begun": 0.05, "weight": 0.1, "coefficient": 0.2}
    (tmp_path / "training_state.json").write_text(json.dumps({**document, "kl_control": good}))
    state = read_training_state(tmp_path)
    assert state is not None and state.kl_control == good
    (tmp_path / "training_state.json").write_text(json.dumps({**document, "kl_control": told}))
    with pytest.raises(DataError, match="this is no training state"):
        read_training_state(tmp_path)


def test_an_initial_policy_has_no_optimizer(model_folder: Path, tmp_path: Path) -> None:
    state = TrainingState(0, 0, None)
    save_checkpoint(tmp_path / "c", load_policy(model_folder), state, None)
    read = read_training_state(tmp_path / "c")
    assert read == state
    assert read_optimizer_state(tmp_path / "c", state) is None


def test_nothing_in_a_checkpoint_is_pickled(model_folder: Path, tmp_path: Path) -> None:
    policy = load_policy(model_folder)
    save_checkpoint(tmp_path / "c", policy, TrainingState(1, 1, None), stepped_optimizer(policy.model))
    assert {file.suffix for file in (tmp_path / "c").iterdir()} == {".json", ".safetensors"}


CODE = {
    "modeling_mine.py": """
from transformers import LlamaForCausalLM
from .configuration_mine import MineConfig
from .helper import NAME

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
    name = NAME
""",
    "configuration_mine.py": """
from transformers import LlamaConfig

class MineConfig(LlamaConfig):
    model_type = "mine"
""",
    "tokenization_mine.py": """
from transformers import PreTrainedTokenizerFast

class MineTokenizerFast(PreTrainedTokenizerFast):
    pass
""",
    "helper.py": "NAME = 'mine'\n",
}


@pytest.fixture
def coded_folder(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model and a tokenizer with code of their own."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "coded"))
    for name, code in CODE.items():
        (folder / name).write_text(code)
    model = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    tokenizer = {"AutoTokenizer": [None, "tokenization_mine.MineTokenizerFast"]}
    changes = {
        "config.json": {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": model},
        "tokenizer_config.json": {"tokenizer_class": "MineTokenizerFast", "auto_map": tokenizer},
    }
    for name, changed in changes.items():
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**document, **changed}))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def test_a_model_with_code_of_its_own_can_be_loaded_from_its_checkpoint_alone(
    coded_folder: Path, tmp_path: Path
) -> None:
    policy = load_policy(coded_folder, trust_remote_code=True)
    version = save_checkpoint(tmp_path / "one", policy, TrainingState(0, 0, None), None)
    assert version == policy.version
    shutil.rmtree(coded_folder)
    again = load_policy(tmp_path / "one", trust_remote_code=True)
    assert (type(again.model).__name__, again.model.name) == ("MineForCausalLM", "mine")
    assert type(again.tokenizer).__name__ == "MineTokenizerFast"
    assert type(again.model).__module__ != type(policy.model).__module__, "the checkpoint's code is what runs"
    save_checkpoint(tmp_path / "two", again, TrainingState(0, 0, None), None)
    assert member_checksums(tmp_path / "one") == member_checksums(tmp_path / "two")


def test_code_that_is_not_trusted_is_not_run_and_the_error_says_so(coded_folder: Path) -> None:
    (coded_folder / "configuration_mine.py").write_text("raise RuntimeError('this was run')\n")
    with pytest.raises(AlignError) as caught:
        load_policy(coded_folder)
    (fault,) = caught.value.faults
    assert (fault.what, fault.where) == (
        "the model comes with code of its own, which is not run unless it is trusted",
        str(coded_folder),
    )
    assert fault.hint == "look at its .py files, and set policy.trust_remote_code to true where you trust them"


def test_tensors_in_groups_which_parameters_share_come_back_as_they_were(tiny_policy: Policy, tmp_path: Path) -> None:
    """As optimizers of bitsandbytes have them: the table that 8 bits are read by is one for all parameters."""
    table = torch.linspace(0, 1, 256)

    class Grouped(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "state": {n: {"step": 1, "bits": {"table": table}} for n in range(2)}}

    optimizer = Grouped([torch.nn.Parameter(torch.ones(2)) for _ in range(2)])
    save_checkpoint(tmp_path / "checkpoint", tiny_policy, TrainingState(1, 2, None), optimizer)
    state = read_training_state(tmp_path / "checkpoint")
    assert state is not None
    found = read_optimizer_state(tmp_path / "checkpoint", state)
    assert found is not None
    assert [values["step"] for values in found["state"].values()] == [1, 1]
    assert all(torch.equal(values["bits"]["table"], table) for values in found["state"].values())
