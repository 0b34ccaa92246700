from __future__ import annotations

import pytest

from align_cli.errors import LabelerError
from align_cli.labelers import build_labeler
from align_cli.playground import hidden_reward
from align_cli.recipe.sections.labelers import DatasetLabelerSection, FunctionLabelerSection


def test_a_function_section_makes_a_scorer_with_the_recipes_name() -> None:
    section = FunctionLabelerSection(kind="function", function="align_cli.playground:hidden_reward")
    scorer = build_labeler("hidden", section)
    texts = ["review of the food :"] * 2, [" the food was good .", ""]
    assert scorer.name == "hidden"
    assert scorer.score(*texts) == hidden_reward(*texts)


def test_the_labels_of_a_dataset_give_no_scores() -> None:
    with pytest.raises(LabelerError, match=r"labelers\.given: a labeler of kind 'dataset' labels nothing that"):
        build_labeler("given", DatasetLabelerSection(kind="dataset"))
