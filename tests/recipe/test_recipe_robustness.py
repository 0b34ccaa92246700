"""Any text is a recipe or a fault; and reading one loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align_cli.errors import RecipeError
from align_cli.recipe import Recipe, dump, load_recipe, resolved

NO_FIXTURE_RESET = [HealthCheck.function_scoped_fixture]
YAML_TEXT = st.text(
    alphabet=st.sampled_from(list("ab: -[]{}&*!<>|%@#'\"\\,?\n\t01.e~=Ux\x07\ud800é\u2028")), max_size=80
)
KEYS = st.sampled_from(
    [
        "output_dir",
        "seed",
        "policy",
        "data",
        "labelers",
        "method",
        "train",
        "evaluate",
        "generate",
        "label",
        "reviews",
        "policy.sft",
        "method.sources",
        "method.beta",
        "method.sources.dpr",
        "method.sources.offline.mixing",
        "labelers.hidden",
        "labelers.hidden.kind",
        "labelers.x.kind",
        "train.bf16",
        "train.optim",
        "evaluate.against",
        "evaluate.against.0",
        "policy.from_scratch.hidden_size",
        "data.prompts",
        "beta",
        "x.y",
        "labelers.hidden.function",
        "policy.model_name_or_path",
        "train.replay_rounds",
        "reviews.liked",
        "method.loss_type",
        "method.loss_type.0",
        "method.loss_weights",
        "method.label_smoothing",
        "method.f_divergence_type",
        "method.optimism",
        "method.optimism.coefficient",
        "method.optimism.on",
        "method.sources.dmd",
        "method.sources.dmd.mixing",
        "data.demonstrations",
        "generate.num_reference_generations",
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["hidden", "dataset", "sft", "simpo", "exo_pair"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("kind"), inner, max_size=3)
    ),
    max_leaves=6,
)


def load_or_fault(path: Path, overrides: list[str]) -> None:
    try:
        recipe = load_recipe(path, overrides)
    except RecipeError as error:
        str(error).encode()
        assert all("pydantic" not in str(fault).lower() for fault in error.faults)
    else:
        assert isinstance(recipe, Recipe)
        assert yaml.safe_load(dump(recipe)) == resolved(recipe)
        path.write_text(dump(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe


@settings(max_examples=100, deadline=5000, suppress_health_check=NO_FIXTURE_RESET)
@given(text=YAML_TEXT | st.text(max_size=60))
def test_any_text_is_a_recipe_or_a_fault(tmp_path, text):
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    load_or_fault(path, [])


@settings(max_examples=100, deadline=5000, suppress_health_check=NO_FIXTURE_RESET)
@given(overrides=st.lists(YAML_TEXT | st.text(max_size=20) | st.builds("{}={}".format, KEYS, YAML_TEXT), max_size=4))
def test_any_override_gives_a_recipe_or_a_fault(tmp_path, minimal, overrides):
    path = tmp_path / "minimal.yaml"
    path.write_text(minimal, encoding="utf-8")
    load_or_fault(path, overrides)


@settings(max_examples=100, deadline=5000, suppress_health_check=NO_FIXTURE_RESET)
@given(values=st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_value_of_any_key_gives_a_recipe_or_a_fault(tmp_path, minimal, values):
    path = tmp_path / "minimal.yaml"
    path.write_text(minimal, encoding="utf-8")
    overrides = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in values.items()]
    load_or_fault(path, overrides)


@pytest.mark.parametrize(
    "text", ["a: " + "x" * 200_000, "[" * 200_000, "{a: " * 50_000, "- " * 100_000, "&a " * 50_000]
)
def test_hostile_files_end_soon(tmp_path, text):
    path = tmp_path / "hostile.yaml"
    path.write_text(text, encoding="utf-8")
    load_or_fault(path, [])


def test_loading_a_recipe_imports_nothing_heavy(tmp_path, minimal):
    path = tmp_path / "minimal.yaml"
    path.write_text(minimal + "  bf16: true\n", encoding="utf-8")
    program = (
        "import sys; from align_cli.recipe import load_recipe; load_recipe(sys.argv[1]);"
        "print([name for name in ('torch', 'transformers', 'trl', 'numpy', 'datasets') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, path], cwd=root, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
