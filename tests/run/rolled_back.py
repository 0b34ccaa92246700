"""A guard that rolls back one round, whatever its figures are: for runs that have to go back at a known place."""

from __future__ import annotations

from typing import Any


def in_round_three() -> None:
    """In this process, guards roll round 3 back."""
    from align_cli.run import step
    from align_cli.run.guards import Finding

    def findings(guards: Any, figures: Any, method: Any) -> list[Finding]:
        is_due = figures.evaluations[-1].round == 3
        return [Finding("kl", "rollback", "as asked")] if is_due else []

    step.findings = findings
