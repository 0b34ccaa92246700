"""Presets: a prior method is a handful of keys, which a recipe may overrule one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align_cli.errors import Fault, RecipeError
from align_cli.recipe import Recipe, load_recipe, resolved, warnings_for
from align_cli.recipe.presets import preset_names

FaultsOf = Callable[..., list[Fault]]

RECIPE = """
output_dir: out
preset: {preset}
policy: {{model_name_or_path: playground, sft: {{dataset: playground}}}}
data:
  prompts: playground
  preferences: playground
  demonstrations: playground
  eval_prompts: playground
labelers:
  reward: {{kind: function, function: "align_cli.playground:hidden_reward"}}
train: {{steps_per_round: 2}}
"""


NEEDS_A_LABELER = (
    "iterative-dpo", "online-dpo", "sail-dpr", "sail-dpr-as-published", "sail-mix", "selm", "xpo", "semi-online-dpo",
    "iterative-rpo", "sppo",
    "dno", "online-simpo", "rebel", "inpo",
)  # fmt: skip


def load(folder: Path, preset: str, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(preset=preset), encoding="utf-8")
    names_labeler = preset in NEEDS_A_LABELER
    labeler = ["method.sources.dpr.labeler=reward"] if names_labeler else []
    return load_recipe(path, [*labeler, *overrides])


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads_and_says_its_paper(preset: str, tmp_path: Path) -> None:
    recipe = load(tmp_path, preset)
    assert sum(source.mixing for source in recipe.method.sources.in_use().values()) == pytest.approx(1)
    text = (Path(load_recipe.__code__.co_filename).parent / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    assert "arXiv:" in text.splitlines()[0] or "arXiv:" in text.splitlines()[1]


@pytest.mark.parametrize(
    ("preset", "coefficients"),
    [
        ("offline-dpo", {"offline": (1.0, None)}),
        ("offline-ipo", {"offline": (1.0, None)}),
        ("offline-slic", {"offline": (1.0, None)}),
        ("offline-simpo", {"offline": (1.0, None)}),
        ("spin", {"dmd": (1.0, 0.0)}),
        ("selm", {"dpr": (1.0, 0.0)}),
        ("xpo", {"dpr": (1.0, 0.0)}),
        ("iterative-dpo", {"dpr": (1.0, 0.0)}),
        ("online-dpo", {"dpr": (1.0, 0.0)}),
        ("self-rewarding", {"dpr": (1.0, 0.0)}),
        ("sail-ddp", {"offline": (0.6, None), "ddp": (0.4, 0.2)}),
        ("sail-dpp", {"offline": (0.7, None), "dpp": (0.3, 0.2)}),
        ("sail-dpr", {"offline": (0.2, None), "dpr": (0.8, 0.0)}),
        ("sail-dpr-as-published", {"offline": (0.7, None), "dpr": (0.3, 0.3)}),
        ("sail-mix", {"offline": (0.4, None), "ddp": (0.2, 0.2), "dpp": (0.2, 0.2), "dpr": (0.2, 0.3)}),
        ("sail-revkl", {"offline": (0.7, None), "dpp": (0.3, 0.2)}),
        ("semi-online-dpo", {"dpr": (1.0, 0.0)}),
        ("iterative-rpo", {"dpr": (1.0, 0.0)}),
        ("sppo", {"dpr": (1.0, 0.0)}),
        ("dno", {"dpr": (1.0, 0.0)}),
        ("hypo", {"offline": (0.5, None), "dpp": (0.5, 0.0)}),
        ("online-simpo", {"dpr": (1.0, 0.0)}),
        ("wpo", {"offline": (1.0, None)}),
        ("rebel", {"dpr": (1.0, 0.0)}),
        ("inpo", {"dpr": (1.0, 0.0)}),
    ],
)
def test_a_preset_is_the_mixture_of_its_method(
    preset: str, coefficients: dict[str, tuple[float, float | None]], tmp_path: Path
) -> None:
    sources = load(tmp_path, preset).method.sources.in_use()
    found = {name: (source.mixing, getattr(source, "gradient", None)) for name, source in sources.items()}
    assert found == coefficients


@pytest.mark.parametrize(
    ("preset", "keys"),
    [
        (
            "offline-simpo",
            {
                "method.loss_type": "simpo",
                "method.beta": 2.0,
                "method.simpo_gamma": 1.0,
                "method.optimism.coefficient": 0.0,
                "policy.reference": "initial",
                "label.ties": "drop",
            },
        ),
        (
            "spin",
            {
                "method.loss_type": "sigmoid",
                "method.beta": 0.1,
                "policy.reference": "previous",
                "generate.num_generations": 1,
                "generate.num_reference_generations": 0,
                "generate.temperature": 1.0,
                "train.schedule": "round",
                "train.reset_optimizer_each_round": True,
                "train.replay_rounds": 1,
                "label.equal_texts": "drop",
            },
        ),
        (
            "selm",
            {
                "method.loss_type": "sigmoid",
                "method.beta": 0.01,
                "method.optimism.coefficient": 1.0e-5,
                "method.optimism.on": "policy",
                "policy.reference": "previous",
                "generate.num_generations": 2,
                "generate.num_reference_generations": 0,
                "generate.temperature": 1.0,
                "label.pairs": "best_worst",
                "label.labels": "hard",
                "label.ties": "keep",
                "label.equal_texts": "keep",
                "train.schedule": "round",
                "train.reset_optimizer_each_round": True,
                "train.replay_rounds": 0,
            },
        ),
        (
            "self-rewarding",
            {
                "method.loss_type": "sigmoid",
                "method.beta": 0.1,
                "method.sources.dpr.labeler": "self",
                "labelers.self.kind": "self_judge",
                "labelers.self.template": "additive",
                "labelers.self.votes": 3,
                "labelers.self.temperature": 0.7,
                "labelers.self.top_p": 0.9,
                "policy.reference": "previous",
                "generate.num_generations": 4,
                "generate.temperature": 0.7,
                "generate.top_p": 0.9,
                "label.pairs": "best_worst",
                "label.labels": "hard",
                "label.ties": "drop",
                "train.schedule": "round",
                "train.reset_optimizer_each_round": True,
                "train.replay_rounds": 0,
            },
        ),
        (
            "xpo",
            {
                "method.loss_type": "sigmoid",
                "method.beta": 0.1,
                "method.optimism.coefficient": 1.0e-5,
                "method.optimism.on": "reference",
                "policy.reference": "initial",
                "generate.num_generations": 1,
                "generate.num_reference_generations": 1,
                "generate.temperature": 1.0,
                "label.pairs": "best_worst",
                "label.labels": "hard",
                "label.ties": "keep",
                "train.schedule": "run",
                "train.reset_optimizer_each_round": False,
                "train.replay_rounds": 1000,
            },
        ),
    ],
)
def test_a_preset_expands_to_its_methods_settings(preset: str, keys: dict[str, object], tmp_path: Path) -> None:
    tree = resolved(load(tmp_path, preset))
    found = {key: value_at(tree, key) for key in keys}
    assert found == keys


@pytest.mark.parametrize(
    ("preset", "keys"),
    [
        ("semi-online-dpo", {"policy.reference": "initial", "train.schedule": "run", "train.steps_per_round": 2}),
        ("iterative-rpo", {"policy.reference": "previous", "method.nll.coefficient": 1.0, "label.labels": "hard"}),
        ("sppo", {"policy.reference": "previous", "method.beta": 0.001, "label.labels": "win_rate"}),
        ("dno", {"policy.reference": "previous", "label.pairs": "all", "label.labels": "win_rate"}),
        ("hypo", {"policy.reference": "initial", "method.kl.gradient": "full", "method.kl.on": "policy"}),
        ("online-simpo", {"method.loss_type": "simpo", "generate.num_generations": 5}),
        ("wpo", {"method.use_weighting": True, "method.beta": 0.01}),
        ("rebel", {"policy.reference": "previous", "method.loss_type": "rebel", "label.ties": "keep"}),
        ("inpo", {"policy.reference": "previous", "method.loss_type": "inpo", "method.initial_reference": 1 / 3}),
    ],
)
def test_what_a_contender_stands_on(preset: str, keys: dict[str, object], tmp_path: Path) -> None:
    tree = resolved(load(tmp_path, preset))
    assert {key: value_at(tree, key) for key in keys} == keys


def test_hypos_own_labels_are_no_mistake(tmp_path: Path) -> None:
    """They are there for the KL alone, which is what the warning says of other recipes."""
    assert not [one for one in warnings_for(load(tmp_path, "hypo")) if "dpp" in one]
    assert [one for one in warnings_for(load(tmp_path, "sail-dpp", "method.sources.dpp.gradient=0")) if "dpp" in one]


@pytest.mark.parametrize("preset", ["iterative-dpo", "sail-dpr", "self-rewarding", "sppo"])
def test_a_preset_that_is_best_against_worst_of_many_is_no_mistake(tmp_path: Path, preset: str) -> None:
    assert not [one for one in warnings_for(load(tmp_path, preset)) if "trains on two" in one]


def test_many_responses_where_a_preset_draws_two_may_be_a_mistake(tmp_path: Path) -> None:
    assert [one for one in warnings_for(load(tmp_path, "rebel", "generate.num_generations=4")) if "on two" in one]


def value_at(tree: dict[str, Any], key: str) -> object:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_spin_samples_the_prompts_of_its_demonstrations_where_there_are_no_others(tmp_path: Path) -> None:
    recipe = load(tmp_path, "spin", "data={demonstrations: playground}")
    assert recipe.is_online and recipe.data.prompts is None


def test_spin_without_demonstrations_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        load(tmp_path, "spin", "data.demonstrations=null")
    assert str(raised.value).splitlines()[0] == (
        "override 'data.demonstrations=null': data.demonstrations is not set; the source dmd takes the chosen "
        "responses from it"
    )


def test_what_the_recipe_says_wins_key_by_key(tmp_path: Path) -> None:
    recipe = load(tmp_path, "iterative-dpo", "generate.num_generations=4", "method.beta=0.3")
    assert recipe.generate.num_generations == 4 and recipe.method.beta == 0.3
    assert recipe.train.schedule == "round" and recipe.train.steps_per_round == 2


def test_a_presets_labeler_is_changed_key_by_key_or_replaced_by_one_of_another_kind(tmp_path: Path) -> None:
    labelers = load(tmp_path, "self-rewarding", "labelers.self.votes=5").labelers
    assert sorted(labelers) == ["reward", "self"]
    changed = labelers["self"].model_dump()
    assert (changed["kind"], changed["votes"], changed["top_p"]) == ("self_judge", 5, 0.9)
    other = "{kind: function, function: 'align_cli.playground:hidden_reward', batch_size: 8}"
    replaced = load(tmp_path, "self-rewarding", f"labelers.self={other}").labelers["self"]
    assert (replaced.kind, replaced.model_dump()["batch_size"]) == ("function", 8)


def test_a_preset_expands_to_keys_and_nothing_else(tmp_path: Path) -> None:
    """The same keys written out give the same recipe, apart from the preset's name."""
    by_preset = resolved(load(tmp_path, "sail-revkl"))
    written = RECIPE.replace("preset: {preset}\n", "").format() + (
        "method:\n  sources: {offline: {mixing: 0.7}, dpp: {mixing: 0.3, gradient: 0.2}}\n"
        "  kl: {coefficient: 0.02, on: policy, gradient: full}\n"
    )
    (tmp_path / "written.yaml").write_text(written, encoding="utf-8")
    assert resolved(load_recipe(tmp_path / "written.yaml")) == {**by_preset, "preset": None}


OF_MANY, NO_BASELINE = "sail-dpr-as-published", "sail-revkl"


@pytest.mark.parametrize(
    ("preset", "overrides", "is_told"),
    [
        (OF_MANY, ("generate.num_generations=4",), True),
        (OF_MANY, ("generate.num_generations=4", "method.sources.dpr.gradient=0"), False),
        (OF_MANY, ("generate.num_generations=4", "method.kl={coefficient: 0.02, on: all, gradient: pathwise}"), False),
        (OF_MANY, (), False),
        (NO_BASELINE, ("method.kl.baseline=false",), True),
        (NO_BASELINE, ("method.kl.baseline=false", "method.kl.gradient=pathwise"), False),
        (NO_BASELINE, ("method.kl.baseline=false", "method.kl.coefficient=0"), False),
        (NO_BASELINE, (), False),
    ],
)
def test_what_was_seen_to_run_away_is_warned_of(
    preset: str, overrides: tuple[str, ...], is_told: bool, tmp_path: Path
) -> None:
    """The response term of many responses without KL; the full gradient of the KL without a baseline."""
    warnings = warnings_for(load(tmp_path, preset, *overrides))
    assert any("seen to run away" in text for text in warnings) == is_told


def test_an_unknown_preset_gets_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean sail-dpr") as raised:
        load(tmp_path, "sail-dprr")
    assert ":3:9" in str(raised.value)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "slic", "simpo"])
def test_a_losss_name_is_taken_for_its_offline_preset(loss: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"did you mean offline-{loss}?"):
        load(tmp_path, loss)


def test_a_fault_in_a_presets_key_names_the_preset(tmp_path: Path) -> None:
    """The preset's dpr has no labeler: the place is where the recipe names the preset."""
    with pytest.raises(RecipeError, match="dpr has no labeler") as raised:
        load_recipe(load_path(tmp_path, "sail-dpr"))
    (fault,) = raised.value.faults
    assert fault.where == f"{tmp_path / 'recipe.yaml'}:3:9"
    assert fault.hint.endswith("(preset sail-dpr sets method.sources.dpr.mixing)")


def load_path(folder: Path, preset: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(preset=preset), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("overrides", "where", "hint"),
    [
        (
            ("preset=offline-simpo", "method.loss_type=slic"),
            "override 'method.loss_type=slic'",
            "leave it out, or set method.loss_type to simpo (preset offline-simpo sets method.simpo_gamma)",
        ),
        (
            ("policy.reference=previous", "preset=xpo"),
            "override 'preset=xpo'",
            "raise generate.num_generations instead, or set policy.reference to initial "
            "(preset xpo sets generate.num_reference_generations)",
        ),
        (
            ("preset=sail-mix", "generate.top_k=5"),
            "override 'generate.top_k=5'",
            "set generate.top_k to 0, or method.sources.dpp.gradient to 0 "
            "(preset sail-mix sets method.sources.dpp.gradient)",
        ),
        (
            ("preset=iterative-dpo", "method.sources.offline={mixing: 0.9}"),
            "override 'method.sources.offline={mixing: 0.9}'",
            "set the mixing of one source to what the others leave of 1 "
            "(preset iterative-dpo sets method.sources.dpr.mixing)",
        ),
    ],
)
def test_what_does_not_go_with_a_preset_is_told_at_what_was_typed_with_what_is_the_presets(
    faults_of: FaultsOf, overrides: tuple[str, ...], where: str, hint: str
) -> None:
    names_labeler = {"preset=xpo", "preset=sail-mix", "preset=iterative-dpo"} & set(overrides)
    labeler = ["method.sources.dpr.labeler=reward"] if names_labeler else []
    (fault,) = faults_of(*labeler, *overrides, text=RECIPE.format(preset="null"))
    assert (fault.where, fault.hint) == (where, hint)


def test_in_a_file_it_is_told_at_the_line_of_the_users(faults_of: FaultsOf) -> None:
    (fault,) = faults_of(text=f"method:\n  loss_type: slic{RECIPE.format(preset='offline-simpo')}")
    assert (fault.where, fault.key) == ("recipe.yaml:2:14", "method.simpo_gamma")
    assert fault.what == "method.simpo_gamma is 1.0; hinge does not look at it"


def own_preset(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_ones_own_is_a_preset_and_may_build_on_another(tmp_path: Path) -> None:
    gentle = own_preset(
        tmp_path, "gentle", "preset: offline-dpo\nmethod: {beta: 0.4}\ntrain: {learning_rate: 1.0e-5}\n"
    )
    recipe = load(tmp_path, str(gentle), "train.learning_rate=2e-5")
    assert (recipe.method.beta, recipe.train.learning_rate) == (0.4, 2e-5)
    assert list(recipe.method.sources.in_use()) == ["offline"]
    assert recipe.preset == "offline-dpo"


def test_a_file_names_another_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "arms").mkdir()
    own_preset(tmp_path / "arms", "gentle", "preset: offline-dpo\nmethod: {beta: 0.4}\n")
    gentler = own_preset(tmp_path / "arms", "gentler", "preset: gentle.yaml\ntrain: {learning_rate: 1.0e-6}\n")
    assert load(tmp_path, str(gentler)).method.beta == 0.4


def test_a_run_does_not_need_the_file_of_its_preset(tmp_path: Path) -> None:
    gentle = own_preset(tmp_path, "gentle", "method: {beta: 0.4, sources: {offline: {mixing: 1.0}}}\n")
    recipe = load(tmp_path, str(gentle))
    assert recipe.preset is None and "gentle" not in str(resolved(recipe))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "there is no such recipe"),
        ("- 1\n", "holds no keys with values"),
        ("", "holds no keys with values"),
        ("preset: {here}\n", "build on one another"),
        ("preset: ../{folder}/mine.yaml\n", "build on one another"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_at_its_name(text: str | None, what: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text.format(here=path, folder=tmp_path.name), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, str(path))
    assert any(what in fault.what and fault.key == "preset" for fault in caught.value.faults)


def test_a_wrong_key_in_a_file_is_told_at_its_line(tmp_path: Path) -> None:
    path = own_preset(tmp_path, "mine", "method:\n  sources: {offline: {mixing: 1.0}}\n  betta: 0.4\n")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, str(path))
    assert [fault.where.rsplit("/", 1)[-1] for fault in caught.value.faults] == ["mine.yaml:3:3"]
    assert "beta" in caught.value.faults[0].hint
