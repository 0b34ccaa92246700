"""Code that is not align's: a labeler in a module is hashed like one in a file; a model's own is loaded on resume."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from forked import Stop
from run_fixtures import NO_EVALUATION, Align, MakeFolder, assert_refused, assert_same_runs

REWARD = "def score(prompts, completions, **_):\n    return [float(len(text)) for text in completions]\n"
MODULES = {"rewards": "rewards.py", "package.rewards": "package/rewards.py"}
MODEL = """from transformers import LlamaConfig, LlamaForCausalLM


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


@pytest.mark.long
@pytest.mark.parametrize("module", MODULES)
def test_a_module_labeler_whose_code_has_changed_is_noticed(
    module: str, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    labeler = {"kind": "function", "function": f"{module}:score"}
    folder = make_folder(tmp_path, labelers__ours=labeler, rounds=1)
    file = folder / MODULES[module]
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").touch()
    file.write_text(REWARD)
    assert align("train", "recipe.yaml", cwd=folder).code == 0
    recorded = json.loads((folder / "run" / "rounds" / "001" / "manifest.json").read_text())["stages"]["label"][
        "inputs"
    ]
    assert "labelers.ours.function" in recorded["files"]
    assert align("train", "recipe.yaml", "rounds=2", cwd=folder, stop=Stop("manifest")).code == -signal.SIGKILL
    file.write_text(REWARD.replace("float(", "-float("))
    refused = align("train", "recipe.yaml", "rounds=2", cwd=folder)
    assert_refused(refused)
    assert "the contents of labelers.ours.function have changed" in refused.err


@pytest.mark.parametrize("module", ["labeler.py", "package.labeler"])
def test_what_a_labeler_imports_from_beside_it_is_noticed_when_it_has_changed(
    module: str, make_folder: MakeFolder, align: Align, tmp_path: Path
) -> None:
    labeler = {"kind": "function", "function": f"{module}:score"}
    folder = make_folder(tmp_path, labelers__ours=labeler, rounds=1, **NO_EVALUATION)
    package, helper = folder / "package", folder / "helpers" / "lengths.py"
    package.mkdir()
    helper.parent.mkdir()  # a package without __init__.py
    (package if module.startswith("package") else folder).joinpath("labeler.py").write_text(
        "from helpers.lengths import score\n"
    )
    helper.write_text(REWARD)
    done = align("train", "recipe.yaml", cwd=folder)
    assert done.code == 0, done.err
    again = align("train", "recipe.yaml", cwd=folder)
    assert "is finished" in again.err, again.err
    helper.write_text(REWARD.replace("float(", "-float("))
    refused = align("train", "recipe.yaml", "rounds=2", cwd=folder)
    assert_refused(refused)
    assert "the contents of labelers.ours.function (helpers.lengths) have changed" in refused.err


def test_aligns_own_functions_are_known_by_its_version(finished: Path) -> None:
    """The playground's reward is no file of the user's."""
    from align_cli.recipe.sections.labelers.code import code_file

    assert code_file("align_cli.playground:hidden_reward") is None
    assert code_file("json:loads") == json.__file__
    assert code_file("no_such_package.module:score") is None
    assert code_file("no.such.package.at_all:score") is None
    assert code_file("somewhere/labeler.py:score") == "somewhere/labeler.py"


@pytest.fixture(scope="module")
def own_code(make_folder: MakeFolder, tiny_policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe for a model that brings code of its own. Shared: tests take a copy."""
    folder = make_folder(
        tmp_path_factory.mktemp("own_code"),
        policy={"model_name_or_path": "./model", "trust_remote_code": True},
        checkpoints={"every_steps": 1, "keep": 1},
        guards={"kl": {"above": 1.0e-9, "action": "rollback"}},
    )
    model = Path(shutil.copytree(tiny_policy_folder, folder / "model"))
    (model / "modeling_mine.py").write_text(MODEL)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mine", "architectures": ["MineForCausalLM"]}
    config["auto_map"] = {
        "AutoConfig": "modeling_mine.MineConfig",
        "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
    }
    (model / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.long
def test_a_model_with_code_of_its_own_goes_on_wherever_it_was_killed(
    own_code: Path, align: Align, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoints are loaded in every way: within a round, between rounds, as a roll-back, by a single command."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    whole, killed = (Path(shutil.copytree(own_code, tmp_path / name)) for name in ("whole", "killed"))
    done = align("train", "recipe.yaml", cwd=whole)
    assert done.code == 0, done.err
    assert "rolled back" in done.err
    for stop in (Stop("step", 2, within="round 1 train"), Stop("ledger", within="round 1 evaluate")):
        ended = align("train", "recipe.yaml", cwd=killed, stop=stop)
        assert ended.code == -signal.SIGKILL, ended.err
    again = align("train", "recipe.yaml", cwd=killed)
    assert again.code == 0, again.err
    assert_same_runs(killed, whole)
    checkpoint = "run/rounds/002/checkpoint"
    evaluated = align("evaluate", "recipe.yaml", "--policy", checkpoint, cwd=whole)
    assert evaluated.code == 0, evaluated.err


def test_untrusted_it_is_refused_in_words(own_code: Path, align: Align, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own_code, tmp_path / "copy"))
    refused = align("train", "recipe.yaml", "policy.trust_remote_code=false", cwd=folder)
    assert_refused(refused)
    assert "policy.trust_remote_code" in refused.err
