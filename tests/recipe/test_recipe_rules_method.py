"""Each rule about the loss, its options, mixed pairs and optimism: its words, and that its remedy is one."""

from __future__ import annotations

from typing import NamedTuple

import pytest

NO_GRADIENT = "method.sources.dpr.gradient=0"
MIXED = ("method.sources={offline: {mixing: 0.5}, dmd: {mixing: 0.5}}", "data.demonstrations=playground")
MIXED_WITH_GRADIENT = (*MIXED, "method.sources.dmd.gradient=0.5")
REFERENCE_PAIRS = ("generate.num_generations=1", "generate.num_reference_generations=1")
OWN_PAIRS = ("policy.reference=previous", "method.optimism.on=policy")
OPTIMISM = "method.optimism.coefficient=0.1"
SCARCE = "method.sources={offline: {mixing: 0.84}, dpp: {mixing: 0.1}, dpr: {mixing: 0.06, labeler: hidden}}"
OFFLINE = "method.sources={offline: {mixing: 1}}"
TAKE = "take sigmoid, ipo or hinge"
TAKE_WITHOUT = f"{TAKE} without TRL's options"


class Broken(NamedTuple):
    """A recipe that breaks one rule, the fault's words, and every way in which a user may follow the hint."""

    overrides: tuple[str, ...]
    where: str
    what: str
    hint: str
    remedies: tuple[tuple[str, ...], ...]


BROKEN = {
    "more rounds than can be planned": Broken(
        ("rounds=1000000000",),
        "override 'rounds=1000000000'",
        "rounds is 1000000000; a run has at most 100000",
        "it may be raised later on",
        (("rounds=100000",),),
    ),
    "a beta by which no loss can be divided": Broken(
        ("method.beta=1e-45", "method.loss_type=ipo"),
        "override 'method.beta=1e-45'",
        "method.beta is 1e-45; below 1e-06 losses are no longer finite",
        "0.1 to 0.5 is usual for DPO",
        (("method.beta=0.1",),),
    ),
    **{
        f"a number that is none of float32's, {key}": Broken(
            (f"{key}=1e+308", *others),
            f"override '{key}=1e+308'",
            f"{key} is 1e+308; the largest number that a recipe may say is 1e+30",
            "models compute in float32, which overflows a little beyond",
            ((f"{key}=1.0",),),
        )
        for key, *others in (("method.importance_weight_cap",), ("method.kl.coefficient",), ("train.max_grad_norm",))
    },
    "mixed pairs without demonstrations": Broken(
        MIXED[:1],
        "recipe.yaml:4:1",
        "data.demonstrations is not set; the source dmd takes the chosen responses from it",
        "set data.demonstrations, or remove method.sources.dmd",
        (("data.demonstrations=playground",), (OFFLINE,)),
    ),
    "reference completions that no source pairs": Broken(
        (OFFLINE, "generate.num_reference_generations=1"),
        "override 'generate.num_reference_generations=1'",
        "generate.num_reference_generations is 1; only the source dpr pairs them",
        "set generate.num_reference_generations to 0",
        (("generate.num_reference_generations=0",),),
    ),
    "completions of a reference that is the policy": Broken(
        ("generate.num_reference_generations=1", "policy.reference=previous"),
        "override 'generate.num_reference_generations=1'",
        "generate.num_reference_generations is 1, but policy.reference is previous: the policy that a round samples is "
        "its reference",
        "raise generate.num_generations instead, or set policy.reference to initial",
        (
            ("generate.num_reference_generations=0", "generate.num_generations=3"),
            ("policy.reference=initial",),
        ),
    ),
    "one completion of the policy for its own pairs, whatever the reference adds": Broken(
        (
            *REFERENCE_PAIRS,
            "method.sources={dpp: {mixing: 0.5}, dpr: {mixing: 0.5, labeler: hidden}}",
        ),
        "override 'generate.num_generations=1'",
        "generate.num_generations is 1; a pair of the source dpp needs at least 2 completions of a prompt",
        "set generate.num_generations to 2",
        (("generate.num_generations=2",),),
    ),
    "mixed pairs of top-k samples with a gradient": Broken(
        (*MIXED_WITH_GRADIENT, "generate.top_k=5"),
        "override 'generate.top_k=5'",
        "generate.top_k is 5; with a gradient above 0 responses must come from the policy's whole distribution",
        "set generate.top_k to 0, or method.sources.dmd.gradient to 0",
        (("generate.top_k=0",), ("method.sources.dmd.gradient=0",)),
    ),
    "mixed pairs of nucleus samples with a gradient": Broken(
        (*MIXED_WITH_GRADIENT, "generate.top_p=0.9"),
        "override 'generate.top_p=0.9'",
        "generate.top_p is 0.9; with a gradient above 0 responses must come from the policy's whole distribution",
        "set generate.top_p to 1.0, or method.sources.dmd.gradient to 0",
        (("generate.top_p=1",), ("method.sources.dmd.gradient=0",)),
    ),
    "mixed pairs of another temperature with a gradient": Broken(
        (*MIXED_WITH_GRADIENT, "generate.temperature=0.7"),
        "override 'generate.temperature=0.7'",
        "generate.temperature is 0.7; with a gradient above 0 responses of another temperature than 1 need importance "
        "weights",
        "set method.importance_weight_cap, such as 10, or generate.temperature to 1.0, or "
        "method.sources.dmd.gradient to 0",
        (("method.importance_weight_cap=10",), ("generate.temperature=1",), ("method.sources.dmd.gradient=0",)),
    ),
    "equal mixed pairs left out with a gradient": Broken(
        (*MIXED_WITH_GRADIENT, "label.equal_texts=drop"),
        "override 'label.equal_texts=drop'",
        "label.equal_texts is drop; with a gradient above 0 leaving pairs out would bias the gradient",
        "set label.equal_texts to keep, or method.sources.dmd.gradient to 0",
        (("label.equal_texts=keep",), ("method.sources.dmd.gradient=0",)),
    ),
    "empty mixed pairs left out with a gradient": Broken(
        (*MIXED_WITH_GRADIENT, "label.empty_texts=drop"),
        "override 'label.empty_texts=drop'",
        "label.empty_texts is drop; with a gradient above 0 leaving pairs out would bias the gradient",
        "set label.empty_texts to keep, or method.sources.dmd.gradient to 0",
        (("label.empty_texts=keep",), ("method.sources.dmd.gradient=0",)),
    ),
    "the full KL on demonstrations": Broken(
        (*MIXED, "method.sources={dmd: {mixing: 1}}", "method.kl={coefficient: 0.1, on: all}"),
        "override 'method.kl={coefficient: 0.1, on: all}'",
        "method.kl.gradient is full on the responses of dmd; it is exact on the policy's own responses alone",
        "set method.kl.gradient to pathwise, or method.kl.on to policy",
        (("method.kl.gradient=pathwise",), ("method.kl.on=policy",)),
    ),
    "the full KL on the reference's responses": Broken(
        (
            *REFERENCE_PAIRS,
            "method.sources={dpr: {mixing: 1, labeler: hidden}}",
            "method.kl={coefficient: 0.1, on: all}",
        ),
        "override 'method.kl={coefficient: 0.1, on: all}'",
        "method.kl.gradient is full on the responses of the reference; it is exact on the policy's own responses alone",
        "set method.kl.gradient to pathwise, or method.kl.on to policy",
        (("method.kl.gradient=pathwise",), ("method.kl.on=policy",)),
    ),
    "the full KL on two chosen of three, one of them the reference's": Broken(
        ("generate.num_reference_generations=1", "method.kl.coefficient=0.1"),
        "override 'method.kl.coefficient=0.1'",
        "method.kl.gradient is full, and label.pairs chooses two of more responses; chosen responses are no draws from "
        "the policy, so it would not be exact",
        "set method.kl.gradient to pathwise, or label.pairs to all",
        (("method.kl.gradient=pathwise",), ("label.pairs=all",)),
    ),
    "a KL to hold with a weight that begins at 0": Broken(
        ("method.kl.target=2.0",),
        "override 'method.kl.target=2.0'",
        "method.kl.target is 2.0, and method.kl.coefficient, where its weight begins, is 0",
        "set method.kl.coefficient, such as 0.05",
        (("method.kl.coefficient=0.05", "method.kl.gradient=pathwise"),),
    ),
    "a KL to hold without a response of the policy's": Broken(
        (
            "method.sources={offline: {mixing: 1.0}}",
            "method.kl={coefficient: 0.1, on: all, gradient: pathwise, target: 2.0}",
        ),
        "override 'method.kl={coefficient: 0.1, on: all, gradient: pathwise, target: 2.0}'",
        "method.kl.target is 2.0, but no source samples the policy, on whose responses it is measured",
        "leave it out",
        (("method.kl.target=null",),),
    ),
    "a KL to hold where pairs may be of the reference's responses alone": Broken(
        (
            *REFERENCE_PAIRS,
            "generate.num_reference_generations=2",
            "method.kl={coefficient: 0.1, on: all, gradient: pathwise, target: 2.0}",
        ),
        "override 'method.kl={coefficient: 0.1, on: all, gradient: pathwise, target: 2.0}'",
        "method.kl.target is 2.0, and generate.num_reference_generations is above 1: steps may have pairs of the "
        "reference's responses alone, on which it is not measured",
        "set generate.num_reference_generations to 1, or leave it out",
        (("generate.num_reference_generations=1",), ("method.kl.target=null",)),
    ),
    "a KL to hold that some steps do not measure": Broken(
        (SCARCE, "method.kl={coefficient: 0.1, on: all, gradient: pathwise, target: 2.0}"),
        "override 'method.kl={coefficient: 0.1, on: all, gradient: pathwise, target: 2.0}'",
        "method.kl.target: the pairs that carry it have a share of dpp 0.1 and dpr 0.06 in batches of 8; steps with "
        "none of them would go without",
        "set train.gradient_accumulation_steps to 2, or method.sources.dpp.mixing to 0.125 or more",
        (("train.gradient_accumulation_steps=2",),),
    ),
    "KL on pairs that some steps have not": Broken(
        (SCARCE, "method.kl.coefficient=0.1"),
        "override 'method.kl.coefficient=0.1'",
        "method.kl: the pairs that carry it have a share of dpp 0.1 and dpr 0.06 in batches of 8; steps with none of "
        "them would go without",
        "set train.gradient_accumulation_steps to 2, or method.sources.dpp.mixing to 0.125 or more",
        (
            ("train.gradient_accumulation_steps=2",),
            ("method.sources.dpp.mixing=0.125", "method.sources.offline.mixing=0.815"),
        ),
    ),
    "optimism on pairs that some steps have not": Broken(
        (SCARCE, "method.sources.dpp.mixing=0", "method.sources.offline.mixing=0.94", *REFERENCE_PAIRS, OPTIMISM),
        f"override '{OPTIMISM}'",
        "method.optimism: the pairs that carry it have a share of dpr 0.06 in batches of 8; steps with none of them "
        "would go without",
        "set train.gradient_accumulation_steps to 3, or method.sources.dpr.mixing to 0.125 or more",
        (
            ("train.gradient_accumulation_steps=3",),
            ("method.sources.dpr.mixing=0.125", "method.sources.offline.mixing=0.875"),
        ),
    ),
    "optimism without pairs that a reward labels": Broken(
        (OPTIMISM, OFFLINE),
        f"override '{OPTIMISM}'",
        "method.optimism without a share of the source dpr: no pair would carry it",
        "give dpr a share, or set method.optimism.coefficient to 0",
        (
            ("method.sources={dpr: {mixing: 1, labeler: hidden}}", *REFERENCE_PAIRS),
            ("method.optimism.coefficient=0",),
        ),
    ),
    "optimism without responses of the reference": Broken(
        (OPTIMISM,),
        f"override '{OPTIMISM}'",
        "method.optimism.on is reference, but generate.num_reference_generations is 0",
        "set generate.num_reference_generations to 1, and generate.num_generations to 1",
        (REFERENCE_PAIRS,),
    ),
    "optimism on the reference's responses where that is the previous policy": Broken(
        (OPTIMISM, "policy.reference=previous"),
        f"override '{OPTIMISM}'",
        "method.optimism.on is reference, but generate.num_reference_generations is 0",
        "set method.optimism.on to policy: with policy.reference previous that policy is the reference",
        (("method.optimism.on=policy",),),
    ),
    "optimism on responses that the initial reference did not sample": Broken(
        (OPTIMISM, "method.optimism.on=policy"),
        f"override '{OPTIMISM}'",
        "method.optimism.on is policy, but policy.reference is not previous: the reference sampled none of them",
        "set policy.reference to previous, or method.optimism.on to reference",
        (("policy.reference=previous",), ("method.optimism.on=reference", *REFERENCE_PAIRS)),
    ),
    "optimism on two chosen of three": Broken(
        (OPTIMISM, "generate.num_reference_generations=1"),
        f"override '{OPTIMISM}'",
        "method.optimism on two chosen of more responses; chosen responses are no draws from the reference",
        "set generate.num_generations and generate.num_reference_generations to 1",
        (REFERENCE_PAIRS,),
    ),
    "optimism on pairs of which some hold no response of the reference": Broken(
        (OPTIMISM, "generate.num_reference_generations=1", "label.pairs=all"),
        f"override '{OPTIMISM}'",
        "method.optimism.on is reference, and generate.num_generations is above 1: some pairs would carry none",
        "set generate.num_generations to 1",
        (("generate.num_generations=1",),),
    ),
    "optimism on replayed pairs of another reference": Broken(
        (OPTIMISM, *OWN_PAIRS, "train.replay_rounds=1"),
        f"override '{OPTIMISM}'",
        "method.optimism.on is policy, and train.replay_rounds is above 0: another reference sampled those pairs",
        "set train.replay_rounds to 0",
        (("train.replay_rounds=0",),),
    ),
    "the full KL at another temperature": Broken(
        ("method.sources.dpr.gradient=0", "method.kl.coefficient=0.1", "generate.temperature=0.7"),
        "override 'method.kl.coefficient=0.1'",
        "method.kl.gradient is full; at another temperature than 1 responses are no draws from the policy",
        "set method.importance_weight_cap, such as 10, or generate.temperature to 1.0",
        (("method.importance_weight_cap=10",), ("generate.temperature=1.0",)),
    ),
    "weights where nucleus sampling cut the support": Broken(
        ("method.sources.dpr.gradient=0", "method.importance_weight_cap=10", "generate.top_p=0.9"),
        "override 'generate.top_p=0.9'",
        "generate.top_p is 0.9; importance weights cannot make up for responses that were never sampled",
        "set generate.top_p to 1.0, or leave method.importance_weight_cap out",
        (("generate.top_p=1.0",), ("method.importance_weight_cap=null",)),
    ),
    "a loss named twice": Broken(
        ("method.sources.dpr.gradient=0", "method.loss_type=[dpo, sigmoid, bco_pair]"),
        "override 'method.loss_type=[dpo, sigmoid, bco_pair]'",
        "method.loss_type names sigmoid more than once",
        "name it once",
        (("method.loss_type=[dpo, bco_pair]",),),
    ),
    "losses that all weigh nothing": Broken(
        ("method.sources.dpr.gradient=0", "method.loss_type=[dpo, bco_pair]", "method.loss_weights=[0, 0.0]"),
        "override 'method.loss_weights=[0, 0.0]'",
        "method.loss_weights are all 0: nothing would be learnt",
        "give at least one loss a weight above 0",
        (("method.loss_weights=[1, 0]",),),
    ),
    "TRL's loss with ties": Broken(
        ("method.sources.dpr.gradient=0", "method.loss_type=bco_pair", "label.ties=keep"),
        "override 'method.loss_type=bco_pair'",
        "method.loss_type is 'bco_pair'; TRL's own loss takes hard labels, and label.ties keeps ties, whose label "
        "is one half",
        "take sigmoid, ipo or hinge without TRL's options, or set label.ties to drop",
        (("label.ties=drop",), ("method.loss_type=ipo",)),
    ),
    **{
        f"optimism on what {key} leaves of the distribution": Broken(
            (OPTIMISM, *OWN_PAIRS, NO_GRADIENT, f"generate.{key}={value}"),
            f"override '{OPTIMISM}'",
            "method.optimism with top_k, top_p or another temperature than 1: responses are no draws from the "
            "reference",
            "sample the whole distribution at temperature 1",
            (("generate.top_k=0", "generate.top_p=1", "generate.temperature=1"),),
        )
        for key, value in {"top_k": 5, "top_p": 0.9, "temperature": 0.7}.items()
    },
    "simpo among other losses": Broken(
        ("method.loss_type=[dpo, simpo]", NO_GRADIENT),
        "override 'method.loss_type=[dpo, simpo]'",
        "method.loss_type: simpo stands alone; it is no loss of TRL's",
        "remove it",
        (("method.loss_type=[dpo]",),),
    ),
    **{
        f"simpo with {key}": Broken(
            ("method.loss_type=simpo", NO_GRADIENT, f"method.{key}={value}"),
            f"override 'method.{key}={value}'",
            f"method.{key} is {value}; simpo is no loss of TRL's and has no such option",
            "leave it out, or set method.loss_type to another loss",
            ((f"method.{key}={default}",), ("method.loss_type=dpo",)),
        )
        for key, value, default in (("use_weighting", "true", "false"), ("ld_alpha", "0", "null"))
    },
    "simpo with a gradient": Broken(
        ("method.loss_type=simpo",),
        "override 'method.loss_type=simpo'",
        "method.loss_type is 'simpo'; that loss takes no gradient coefficient, and dpr has one",
        f"{TAKE}, or set method.sources.dpr.gradient to 0",
        (("method.loss_type=sigmoid",), (NO_GRADIENT,)),
    ),
    "simpo with the policy's own labels": Broken(
        ("method.loss_type=simpo", "method.sources={offline: {mixing: 0.5}, ddp: {mixing: 0.5}}"),
        "override 'method.loss_type=simpo'",
        "method.loss_type is 'simpo'; the source ddp has labels of the policy's own, which that loss does not know",
        f"{TAKE}, or remove method.sources.ddp",
        (("method.loss_type=ipo",), (OFFLINE,)),
    ),
    "a loss of TRL's with the policy's own labels of its own pairs": Broken(
        ("method.loss_type=nca_pair", "method.sources={offline: {mixing: 0.5}, dpp: {mixing: 0.5}}"),
        "override 'method.loss_type=nca_pair'",
        "method.loss_type is 'nca_pair'; the source dpp has labels of the policy's own, which that loss does not know",
        f"{TAKE_WITHOUT}, or remove method.sources.dpp",
        (("method.loss_type=hinge",), (OFFLINE,)),
    ),
    "a loss of TRL's with a gradient": Broken(
        ("method.loss_type=robust",),
        "override 'method.loss_type=robust'",
        "method.loss_type is 'robust'; that loss takes no gradient coefficient, and dpr has one",
        f"{TAKE_WITHOUT}, or set method.sources.dpr.gradient to 0",
        (("method.loss_type=ipo",), (NO_GRADIENT,)),
    ),
    "a list of losses with a gradient": Broken(
        ("method.loss_type=[dpo, sft]",),
        "override 'method.loss_type=[dpo, sft]'",
        "method.loss_type is ['dpo', 'sft']; that loss takes no gradient coefficient, and dpr has one",
        f"{TAKE_WITHOUT}, or set method.sources.dpr.gradient to 0",
        (("method.loss_type=dpo",), (NO_GRADIENT,)),
    ),
    "an option of TRL's with a gradient of mixed pairs": Broken(
        (*MIXED_WITH_GRADIENT, "method.use_weighting=true"),
        "recipe.yaml:11:1",
        "method.use_weighting is true; that loss takes no gradient coefficient, and dmd has one",
        f"{TAKE_WITHOUT}, or set method.sources.dmd.gradient to 0",
        (("method.use_weighting=false",), ("method.sources.dmd.gradient=0",)),
    ),
    **{
        f"a loss of TRL's with {key}": Broken(
            ("method.loss_type=nca_pair", NO_GRADIENT, *others, f"{key}={value}"),
            "override 'method.loss_type=nca_pair'",
            f"method.loss_type is 'nca_pair'; TRL's own loss takes no {key}",
            f"{TAKE_WITHOUT}, or leave {key} out",
            (("method.loss_type=hinge",), (f"{key}={unset}",)),
        )
        for key, value, unset, others in (
            ("method.kl.coefficient", 0.1, 0, ()),
            ("train.per_device_max_tokens", 50, "null", ()),
            ("method.optimism.coefficient", 0.1, 0, OWN_PAIRS),
            ("method.importance_weight_cap", 10, "null", ()),
        )
    },
    "a loss of TRL's with soft labels": Broken(
        ("method.loss_type=nca_pair", NO_GRADIENT, "label.labels=soft"),
        "override 'method.loss_type=nca_pair'",
        "method.loss_type is 'nca_pair'; TRL's own loss takes hard labels, and label.labels is soft",
        f"{TAKE_WITHOUT}, or set label.labels to hard or sampled",
        (("method.loss_type=hinge",), ("label.labels=hard",), ("label.labels=sampled",)),
    ),
    "smoothing for a loss that has none": Broken(
        ("method.label_smoothing=0.1", NO_GRADIENT),
        "override 'method.label_smoothing=0.1'",
        "method.label_smoothing is 0.1; sigmoid does not look at it",
        "leave it out, or set method.loss_type to robust or exo_pair or aot or aot_unpaired",
        (
            ("method.label_smoothing=0",),
            *((f"method.loss_type={loss}",) for loss in ("robust", "exo_pair", "aot", "aot_unpaired")),
        ),
    ),
    "a temperature for a loss that has none": Broken(
        ("method.discopop_tau=0.1", "method.loss_type=[ipo, robust]", NO_GRADIENT),
        "override 'method.discopop_tau=0.1'",
        "method.discopop_tau is 0.1; ipo and robust do not look at it",
        "leave it out, or set method.loss_type to discopop",
        (("method.discopop_tau=0.05",), ("method.loss_type=discopop",)),
    ),
    "a margin for a loss that has none": Broken(
        ("method.simpo_gamma=1",),
        "override 'method.simpo_gamma=1'",
        "method.simpo_gamma is 1; sigmoid does not look at it",
        "leave it out, or set method.loss_type to simpo",
        (("method.simpo_gamma=0.5",), ("method.loss_type=simpo", NO_GRADIENT)),
    ),
    "alpha for another divergence": Broken(
        ("method.f_alpha_divergence_coef=0.3", NO_GRADIENT),
        "override 'method.f_alpha_divergence_coef=0.3'",
        "method.f_alpha_divergence_coef is set, but method.f_divergence_type is not alpha_divergence",
        "leave it out",
        (("method.f_alpha_divergence_coef=0.5",), ("method.f_divergence_type=alpha_divergence",)),
    ),
    "a divergence for a loss that has none": Broken(
        ("method.f_divergence_type=js_divergence", "method.loss_type=[dpo, nca_pair]", NO_GRADIENT),
        "override 'method.f_divergence_type=js_divergence'",
        "method.f_divergence_type does not go with sigmoid and nca_pair",
        "it goes with sigmoid, sigmoid_norm, hinge, ipo, exo_pair, robust, discopop, sft",
        tuple(
            (f"method.loss_type={loss}", *(["method.label_smoothing=0.001"] if loss == "exo_pair" else []))
            for loss in ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
        ),
    ),
    "exo_pair without the number that it divides by": Broken(
        ("method.loss_type=[dpo, exo_pair]", NO_GRADIENT),
        "override 'method.loss_type=[dpo, exo_pair]'",
        "method.label_smoothing is 0; exo_pair divides by it",
        "set method.label_smoothing, such as 0.001",
        (("method.label_smoothing=0.001",),),
    ),
    "weights of pairs that the loss sorts": Broken(
        ("method.loss_type=aot", "method.use_weighting=true", NO_GRADIENT),
        "override 'method.use_weighting=true'",
        "method.use_weighting does not go with aot: TRL cannot weigh its pairs",
        "leave it out, or take another loss",
        (("method.use_weighting=false",), ("method.loss_type=ipo",)),
    ),
    "fewer weights than losses": Broken(
        ("method.loss_weights=[1]", "method.loss_type=[dpo, sft]", NO_GRADIENT),
        "override 'method.loss_weights=[1]'",
        "method.loss_weights has 1 weight for 2 losses",
        "give one weight a loss",
        (("method.loss_weights=[1, 0.5]",),),
    ),
    "more weights than losses": Broken(
        ("method.loss_weights=[1, 2, 3]", "method.loss_type=[dpo, sft]", NO_GRADIENT),
        "override 'method.loss_weights=[1, 2, 3]'",
        "method.loss_weights has 3 weights for 2 losses",
        "give one weight a loss",
        (("method.loss_weights=[1, 0.5]",),),
    ),
    "a weight for a loss that stands alone": Broken(
        ("method.loss_weights=[2]",),
        "override 'method.loss_weights=[2]'",
        "method.loss_weights is set, but method.loss_type is sigmoid alone; weights are for a list of losses",
        "leave it out",
        (("method.loss_weights=null",),),
    ),
}

SOUND = {
    "mixed pairs": MIXED,
    "mixed pairs with their exact gradient": (*MIXED, "method.sources.dmd.gradient=1"),
    "mixed pairs alone, prompts from the demonstrations": (
        "method.sources={dmd: {mixing: 1}}",
        "data={demonstrations: playground}",
        "generate.num_generations=1",
    ),
    "rewarded pairs on the prompts of the demonstrations": (
        "data.prompts=null",
        "data.demonstrations=playground",
    ),
    "ties and margins, which mixed pairs know nothing of": (
        *MIXED_WITH_GRADIENT,
        "label.ties=drop",
        "label.min_margin=0.5",
    ),
    "mixed pairs without a gradient, left out and cut": (
        *MIXED,
        "label={equal_texts: drop, empty_texts: drop}",
        "generate.top_k=5",
        "generate.temperature=0.5",
    ),
    "KL on the policy's side of mixed pairs": (*MIXED, "method.kl.coefficient=0.1"),
    "pairs of policy and reference": REFERENCE_PAIRS,
    "two of each": ("generate.num_reference_generations=2", "label.pairs=all"),
    "optimism on the reference's responses": (OPTIMISM, *REFERENCE_PAIRS),
    "optimism on the previous policy's responses": (OPTIMISM, *OWN_PAIRS),
    "optimism on all pairs of three": (OPTIMISM, *OWN_PAIRS, "generate.num_generations=3", "label.pairs=all"),
    "optimism that is off asks for nothing": ("method.optimism={coefficient: 0, on: policy}", "generate.top_k=0"),
    "simpo with KL and soft labels": (
        "method={loss_type: simpo, simpo_gamma: 1.5, beta: 2.0, kl: {coefficient: 0.1}, "
        "sources: {dpr: {mixing: 1, labeler: hidden}}}",
        "label.labels=soft",
    ),
    "one of align's own losses in a list": ("method.loss_type=[ipo]",),
    "two of align's own losses are TRL's": ("method.loss_type=[dpo, ipo]", NO_GRADIENT),
    "every option of TRL's that goes with dpo": (
        NO_GRADIENT,
        "method.f_divergence_type=alpha_divergence",
        "method.f_alpha_divergence_coef=0.3",
        "method.use_weighting=true",
        "method.ld_alpha=0.5",
    ),
    "weights of two losses": (NO_GRADIENT, "method.loss_type=[dpo, sft]", "method.loss_weights=[1, 0.2]"),
    "smoothing where one loss of a list looks at it": (
        NO_GRADIENT,
        "method.loss_type=[dpo, robust]",
        "method.label_smoothing=0.1",
    ),
    "a loss of TRL's on mixed pairs": (*MIXED, "method.loss_type=apo_zero"),
}
ALONE = (
    "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
    "sigmoid_norm",
)  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_says_where_what_and_how_to_mend_it(faults_of, broken):
    (fault,) = faults_of(*broken.overrides)
    assert (fault.where, fault.what, fault.hint) == (broken.where, broken.what, broken.hint)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_whoever_follows_the_hint_has_a_sound_recipe(load, broken):
    for remedy in broken.remedies:
        smoothed = ("method.label_smoothing=0.1",) if "exo_pair" in "".join(remedy) else ()
        load(*broken.overrides, *smoothed, *remedy)


@pytest.mark.parametrize("overrides", SOUND.values(), ids=SOUND)
def test_what_the_rules_of_the_method_allow_loads(load, overrides):
    load(*overrides)


@pytest.mark.parametrize("loss", ALONE)
def test_every_loss_of_trls_loads_on_its_own_and_beside_another(load, loss):
    assert load(NO_GRADIENT, f"method.loss_type={loss}").method.loss_type == loss
    assert load(NO_GRADIENT, f"method.loss_type=[dpo, {loss}]").method.loss_types == ["sigmoid", loss]


def test_every_source_that_a_loss_of_trls_cannot_take_is_named(faults_of):
    faults = faults_of(
        "method.loss_type=sft",
        "data.demonstrations=playground",
        "method.sources={ddp: {mixing: 0.25}, dpp: {mixing: 0.25}, dpr: {mixing: 0.25, gradient: 1, labeler: hidden}, "
        "dmd: {mixing: 0.25, gradient: 1}}",
    )
    assert [fault.hint.rpartition("method.sources.")[2] for fault in faults] == [
        "ddp", "dpp", "dpr.gradient to 0", "dmd.gradient to 0",
    ]  # fmt: skip


@pytest.mark.parametrize("override", ["method.loss_type=ipoo", "method.label_smoothing=2", "method.optimism=3"])
def test_a_rule_of_the_method_keeps_silent_where_its_own_keys_are_faulty(faults_of, override):
    assert len(faults_of(override, OPTIMISM if "optimism" not in override else "seed=0", *REFERENCE_PAIRS)) == 1
