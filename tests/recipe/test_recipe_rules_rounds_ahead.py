"""What has to hold where a round is sampled before the one before it is trained."""

from __future__ import annotations

import pytest

from align_cli.recipe import warnings_for

AHEAD = "generate.rounds_ahead=1"
SERVED = ("generate.engine=server", "generate.server.base_urls=[http://127.0.0.1:8000/v1]")
JUDGED = ("labelers.own={kind: self_judge}", "method.sources.dpr.labeler=own")
CAP = "method.importance_weight_cap"

BROKEN = [
    ([AHEAD, "method.sources={offline: {mixing: 1.0}}"], "nothing is sampled"),
    ([AHEAD, f"{CAP}=null"], "method.importance_weight_cap is null. generate.rounds_ahead is 1"),
    ([AHEAD, "method.loss_type=exo_pair", "method.label_smoothing=0.1", "method.sources.dpr.gradient=0"], "TRL's own"),
    ([AHEAD, "method.sources.dpr.gradient=0", "generate.top_k=5"], "importance weights cannot make up for responses"),
    ([AHEAD, *JUDGED], "labelers.own is the policy itself"),
    ([AHEAD, "labelers.own={kind: self_judge}", "labelers.both={kind: combination, of: {own: 1, hidden: 1}, by: sum}",
      "method.sources.dpr.labeler=both"], "labelers.own is the policy itself"),
    ([AHEAD, "launch.isolate=true"], "launch.isolate is true"),
    ([AHEAD, "method.optimism={coefficient: 0.1, on: policy}", "policy.reference=previous"],
     "another reference sampled those responses"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "what"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_go_with_it_is_a_fault_with_a_remedy(faults_of, overrides, what):
    (fault,) = faults_of(*overrides)
    assert what in fault.what
    assert fault.hint


@pytest.mark.parametrize("more", [(), ("method.sources.dpr.gradient=0",), ("generate.temperature=0.9",)])
def test_its_pairs_are_weighed_where_the_recipe_says_nothing_of_weights(load, more):
    assert load(AHEAD, *more).method.importance_weight_cap == 2.0
    assert load(AHEAD, f"{CAP}=5", *more).method.importance_weight_cap == 5.0
    assert load().method.importance_weight_cap is None


def test_where_it_saves_no_time_that_is_said(load):
    here, served = load(AHEAD), load(AHEAD, *SERVED)
    sparse = load(AHEAD, *SERVED, "checkpoints.every_rounds=2")
    assert "this process samples and then trains" in str(warnings_for(here))
    assert "rounds_ahead" not in str(warnings_for(served))
    assert "checkpoints.every_rounds above 1" in str(warnings_for(sparse))
