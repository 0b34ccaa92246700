"""Where a run stands, read from its folder; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_cli.artifacts.records import Evaluation
from align_cli.run.folder import RunFolder
from align_cli.run.plan import Step, plan_steps
from align_cli.run.results import Results


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Args:
        planned: every step of the recipe.
        finished: those that are in a manifest.
        evaluations: of all rounds so far.
        ledger: every event.
        lineage: the run and the round that it was forked from; None for a run of its own.
        guards: what guards saw, one sentence a finding.
    """

    planned: list[Step]
    finished: list[Step]
    evaluations: list[Evaluation]
    ledger: list[dict[str, Any]]
    lineage: dict[str, Any] | None
    guards: list[str]

    @property
    def next_step(self) -> Step | str:
        """The first step that is not finished, or `none`."""
        finished = set(self.finished)
        return next((step for step in self.planned if step not in finished), "none")

    def to_dict(self) -> dict[str, Any]:
        """The status as a JSON object."""
        return {
            "planned": [step._asdict() for step in self.planned],
            "finished": [step._asdict() for step in self.finished],
            "evaluations": [evaluation.to_dict() for evaluation in self.evaluations],
            "ledger": self.ledger,
            "lineage": self.lineage,
            "guards": self.guards,
        }


def run_status(path: Path) -> RunStatus:
    """The status of the run in a folder.

    Raises:
        AlignError: if there is none, or if what it says of itself is damaged.
    """
    folder = RunFolder(path)
    recipe = folder.recipe()
    steps, origin = plan_steps(recipe), folder.lineage.origin
    finished = [
        step for step in steps if folder.lineage.inherits(step.round) or folder.manifests.finished(step) is not None
    ]
    return RunStatus(
        steps,
        finished,
        Results(recipe, folder).evaluations(),
        folder.ledger.events(),
        None if origin is None else {"run": str(origin.run), "round": origin.round},
        _guards(folder, steps),
    )


def _guards(folder: RunFolder, steps: list[Step]) -> list[str]:
    """What guards saw in each round that is over, and where that led."""
    found = []
    for step in steps:
        record = folder.manifests.finished(step) or {}
        found += [
            f"round {step.round}: guard {finding['guard']} ({finding['action']}): {finding['message']}"
            for finding in record.get("guards", [])
        ]
        if "continues_from" in record:
            found.append(f"round {step.round}: rolled back to the policy of round {record['continues_from']}")
    return found
