"""What a run reads of what is there, said beforehand: just what it verifies when it then goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from forked import Stop
from killed_runs import make_run, train

from align_cli.cli.reporters import RunReporter
from align_cli.recipe import load_recipe
from align_cli.run.folder import RunFolder
from align_cli.run.folder.manifests import Manifests
from align_cli.run.loop import align_rounds
from align_cli.run.needed import check_undamaged
from align_cli.run.plan import plan_steps
from align_cli.run.results import Results
from align_cli.run.standing import remaining_steps
from align_cli.stages.base import Artifact

SPARSE = ("rounds=5", "checkpoints.every_rounds=3")
PREVIOUS = (*SPARSE, "policy.reference=previous")


@pytest.mark.long
@pytest.mark.parametrize(
    ("stop", "overrides"),
    [
        (Stop("ledger", within="round 4 train"), PREVIOUS),
        (Stop("manifest", within="round 3 evaluate"), PREVIOUS),
        (Stop("ledger", within="round 2 train"), ("guards.reward_gap=null",)),
        pytest.param(Stop("ledger", within="round 5 label"), SPARSE, marks=pytest.mark.long),
        pytest.param(Stop("append", 2, within="round 3 generate"), PREVIOUS, marks=pytest.mark.long),
        pytest.param(Stop("manifest", within="round 5 evaluate"), SPARSE, marks=pytest.mark.long),
        pytest.param(Stop("manifest", within="round 5 evaluate"), PREVIOUS, marks=pytest.mark.long),
    ],
    ids=lambda value: f"{value.before} {value.within}" if isinstance(value, Stop) else value[-1],
)
def test_what_is_looked_at_beforehand_is_what_a_run_that_goes_on_reads(
    stop: Stop, overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rounds that left no checkpoint are trained again, for the policy or for the reference."""
    folder = make_run(tmp_path / "killed", "offline and dpr")
    assert train(folder, stop, *overrides).code == -signal.SIGKILL
    monkeypatch.chdir(folder)
    read: set[Artifact] = set()
    verified = Manifests.verified

    def noting(manifests: Manifests, artifact: Artifact) -> Path:
        read.add(artifact)
        return verified(manifests, artifact)

    monkeypatch.setattr(Manifests, "verified", noting)
    recipe = load_recipe("recipe.yaml", overrides)
    run, plan = RunFolder(recipe.output_dir), plan_steps(recipe)
    written = (Artifact(int(path.parent.name), path.name) for path in Path("run/rounds").glob("*/*"))
    there = {artifact for artifact in written if run.manifests.holds(artifact)}
    check_undamaged(Results(recipe, run), plan, remaining_steps(run, recipe, plan))
    foreseen = set(read)
    read.clear()
    align_rounds(recipe, RunReporter())
    assert foreseen == read & there and foreseen
