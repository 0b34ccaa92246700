"""Rules about the losses, labels and references of the contenders: their words, and that their remedies are some."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from align_cli.errors import Fault
from align_cli.recipe import Recipe

ONLINE = ("method.sources={dpr: {mixing: 1, labeler: hidden}}",)
JUDGE = ("labelers.hidden={kind: person}",)
SELF_LABELLED = ("method.sources={dpp: {mixing: 1, gradient: 0.2}}",)
PREVIOUS = ("policy.reference=previous", "method.initial_reference=0.5")


@pytest.mark.parametrize(
    ("overrides", "what", "remedy"),
    [
        (
            ("method.loss_type=rebel", "method.sources.dpr.gradient=0"),
            "method.loss_type is rebel, and pairs of the source offline have no scores, on whose difference it "
            "regresses",
            ONLINE,
        ),
        (
            (*ONLINE, *JUDGE, "method.loss_type=rebel"),
            "method.loss_type is rebel, which regresses on a difference of scores, and 'hidden' gives verdicts",
            ("method.loss_type=inpo",),
        ),
        (
            ("method.loss_type=sppo",),
            "method.loss_type is 'sppo'; that loss takes no gradient coefficient, and dpr has one",
            ("method.sources.dpr.gradient=0",),
        ),
        (
            ("method.loss_type=[sigmoid, inpo]", "method.sources.dpr.gradient=0"),
            "method.loss_type: inpo stands alone; it is no loss of TRL's",
            ("method.loss_type=inpo",),
        ),
        (
            ("method.nll.coefficient=1",),
            "method.nll with a gradient of dpr above 0; the bilevel terms know nothing of it",
            ("method.sources.dpr.gradient=0",),
        ),
        (
            (*SELF_LABELLED, "method.nll.coefficient=1"),
            "method.nll with the source dpp, whose winners the policy names itself: it would only sharpen",
            ("method.nll.coefficient=0",),
        ),
        (
            (*ONLINE, "method.initial_reference=0.5"),
            "method.initial_reference is 0.5, but policy.reference is initial: that is the reference already",
            ("policy.reference=previous",),
        ),
        (
            (*ONLINE, *PREVIOUS, "method.kl.coefficient=0.1"),
            "method.initial_reference is 0.5, but method.kl is to one policy",
            ("method.kl.coefficient=0",),
        ),
        (
            (*SELF_LABELLED, *PREVIOUS),
            "method.initial_reference is 0.5, but ddp and dpp label pairs by one reference",
            ("method.initial_reference=0",),
        ),
        (
            (*ONLINE, "method.loss_type=sppo_hard", "label.labels=win_rate"),
            "method.loss_type is 'sppo_hard'; TRL's own loss takes hard labels, and label.labels is win_rate",
            ("method.loss_type=sppo",),
        ),
    ],
)
def test_a_broken_rule_is_told_and_its_remedy_mends_it(
    faults_of: Callable[..., list[Fault]],
    load: Callable[..., Recipe],
    overrides: tuple[str, ...],
    what: str,
    remedy: tuple[str, ...],
) -> None:
    assert [fault.what for fault in faults_of(*overrides)] == [what]
    assert load(*overrides, *remedy)
