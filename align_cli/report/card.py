"""A model's card: what it is, how it was made, what was measured, and what its author has to say himself.

Facts in, Markdown out, with the front matter that the Hub reads. Of the machine that it was made on no path stays but
the names of files, and no secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from align_cli.artifacts.records import Evaluation
from align_cli.engines.base import SamplingSettings
from align_cli.recipe import Recipe, resolved, to_yaml
from align_cli.recipe.checking.files import PATH_STARTS
from align_cli.redaction import without_secrets
from align_cli.report.tables import NOTHING, TextTable, markdown, rounds_table

Kind = Literal["whole", "adapter", "merged"]
"""All weights; an adapter beside its base; a base with the adapter merged into it."""

FILL_IN = "TO BE FILLED IN BY THE AUTHOR"
OUTPUTS = ("output_dir", "train.logging_dir")
"""Keys of a recipe that name places of the machine, whatever they look like."""
FREE_TEXTS = ("data.system_prompt", "policy.chat_template_kwargs")
"""Keys whose texts are no places, whatever they look like."""
CHECKSUM_DIGITS = 16


class DataFact(NamedTuple):
    """Something that a run read.

    Args:
        key: the recipe's key that names it.
        name: a file's or folder's name without its path, a Hub id, or a built-in world's name.
        rows: how many; None where it has none, or is not there to be counted.
        checksum: SHA-256 of a local file, as the run recorded it; None for others.
        is_of_hub: whether the name is a Hub id.
    """

    key: str
    name: str
    rows: int | None
    checksum: str | None
    is_of_hub: bool = False


@dataclass(frozen=True)
class Base:
    """The model that a run began with.

    Args:
        name: its Hub id, or its folder's name; None for one that was made from scratch.
        is_of_hub: whether the name is a Hub id.
        revision: the recipe's.
        license: what its own card says; None where that is not known.
    """

    name: str | None
    is_of_hub: bool = False
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class CardFacts:
    """All that a card tells.

    Args:
        name: the folder's name, or the repository's id.
        kind: of model.
        base: what the run began with.
        recipe: of the run.
        round: whose policy it is.
        why: how the round was chosen.
        evaluations: of all rounds.
        data: what the run read.
        local_keys: keys of the recipe that name files or folders of the machine.
        versions: by package.
        sampling: what generation_config.json says.
        chats: whether it has a chat template.
    """

    name: str
    kind: Kind
    base: Base
    recipe: Recipe
    round: int
    why: str
    evaluations: Sequence[Evaluation]
    data: Sequence[DataFact]
    local_keys: Collection[str]
    versions: Mapping[str, str]
    sampling: SamplingSettings
    chats: bool


def model_card(facts: CardFacts) -> str:
    """The card, front matter included."""
    from huggingface_hub import ModelCardData

    recipe, base = facts.recipe, facts.base
    data = ModelCardData(
        base_model=base.name if base.is_of_hub else None,
        datasets=list(dict.fromkeys(fact.name.partition(":")[0] for fact in facts.data if fact.is_of_hub)) or None,
        library_name="peft" if facts.kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        license=base.license,
        tags=_tags(facts),
    )
    sections = {
        "": _what_it_is(facts),
        "How to load it": _loading(facts),
        "Rounds and figures": _figures(facts),
        "Data": _data(facts.data),
        "Recipe": f"Every key, defaults included.\n\n```yaml\n{_recipe_text(recipe, facts.local_keys)}```",
        "Versions": markdown(TextTable(["package", "version"], [list(pair) for pair in facts.versions.items()])),
        f"{FILL_IN.capitalize()}": _to_fill_in(facts),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections.items())
    return without_secrets(f"---\n{data.to_yaml()}\n---\n\n# {facts.name}\n\n{body}\n")


def _tags(facts: CardFacts) -> list[str]:
    found = ["align", "preference-alignment", *facts.recipe.method.loss_types]
    found += [facts.recipe.preset] if facts.recipe.preset else []
    return [*found, "lora"] if facts.recipe.policy.lora else found


def _what_it_is(facts: CardFacts) -> str:
    recipe, base = facts.recipe, facts.base
    name = (
        f"`{base.name}`" + (f" at revision `{base.revision}`" if base.revision else "") if base.name else "a new model"
    )
    kinds = {
        "whole": f"{name}, all of whose weights were trained",
        "adapter": f"a LoRA adapter for {name}",
        "merged": f"{name} with a LoRA adapter merged into its weights",
    }
    shares = [f"`{source}` {section.mixing:g}" for source, section in recipe.method.sources.in_use().items()]
    state = "before any round" if facts.round == 0 else f"after round {facts.round} of {recipe.rounds}"
    return (
        f"This is {kinds[facts.kind]}, {state} of iterative preference alignment with align: loss "
        f"{', '.join(recipe.method.loss_types)} with β {recipe.method.beta:g}, reference: the "
        f"{recipe.policy.reference} policy, pairs by source: {', '.join(shares)}. The round was taken as {facts.why}."
    )


def _loading(facts: CardFacts) -> str:
    dtype, place = facts.recipe.policy.dtype, facts.name
    is_adapter = facts.kind == "adapter"
    revision = f', revision="{facts.base.revision}"' if is_adapter and facts.base.revision else ""
    model_class = "AutoPeftModelForCausalLM" if is_adapter else "AutoModelForCausalLM"
    imports = (
        "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer, GenerationConfig"
        if is_adapter
        else "from transformers import AutoModelForCausalLM, AutoTokenizer"
    )
    lines = [
        imports,
        "",
        f'model = {model_class}.from_pretrained("{place}", dtype="{dtype}")',
        *[f'model.generation_config = GenerationConfig.from_pretrained("{place}")'] * is_adapter,
        f'tokenizer = AutoTokenizer.from_pretrained("{place}")',
        *_prompting(facts),
        "print(tokenizer.decode(model.generate(**inputs)[0]))",
    ]
    sampling = facts.sampling
    text = "```python\n" + "\n".join(lines) + "\n```\n\n"
    text += (
        f"The run computed with weights in {dtype}; in another type log-probabilities differ in their last digits or "
        f"more. `generation_config.json` stops and samples as the run did: temperature {sampling.temperature:g}, top-k "
        f"{sampling.top_k}, top-p {sampling.top_p:g}, at most {sampling.max_new_tokens} new tokens, with none of the "
        "penalties that the base may have had in its own."
    )
    if is_adapter:
        text += (
            f'\n\n`AutoModelForCausalLM.from_pretrained("{place}"{revision})` loads it too, where peft is installed; '
            "it samples by the base's own generation settings."
        )
    if is_adapter and not facts.base.is_of_hub:
        text += (
            "\n\n`adapter_config.json` names the base by its place on the machine that this was written on. Elsewhere, "
            f"write the place of `{facts.base.name}` there into `base_model_name_or_path`, or load the base first:\n\n"
            "```python\n"
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("PLACE/OF/{facts.base.name}", dtype="{dtype}")\n'
            f'model = PeftModel.from_pretrained(base, "{place}")\n'
            "```"
        )
    return text


def _prompting(facts: CardFacts) -> list[str]:
    if not facts.chats:
        return ['inputs = tokenizer("TEXT TO GO ON WITH", return_tensors="pt")']
    system = facts.recipe.data.system_prompt
    messages = [{"role": "system", "content": system}] if system else []
    arguments = "".join(f", {key}={value!r}" for key, value in (facts.recipe.policy.chat_template_kwargs or {}).items())
    return [
        f"messages = {[*messages, {'role': 'user', 'content': 'Hello!'}]!r}",
        "inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, "
        f'return_tensors="pt"{arguments})',
    ]


def _figures(facts: CardFacts) -> str:
    if not facts.evaluations:
        return "The run evaluated no round."
    table = rounds_table(facts.evaluations)
    rows = []
    for evaluation, (number, *cells) in zip(facts.evaluations, table.rows, strict=True):
        row = [number, str(evaluation.num_prompts), *cells]
        rows.append([f"**{cell}**" for cell in row] if evaluation.round == facts.round else row)
    shown = markdown(TextTable([table.columns[0], "n", *table.columns[1:]], rows))
    scorer = facts.evaluations[-1].scorer
    judged = f" Rewards, and who wins, are the word of the scorer `{scorer}`, not of people." if scorer else ""
    return (
        f"{shown}\n\nn is the number of held-out prompts, with one response each. Win rates are given with their 95% "
        "intervals, rewards and KL with their standard errors; KL is that to the reference, in nats a response; length "
        f"is in tokens; EOS is the share of responses that end by themselves.{judged} The round in bold is this model."
    )


def _data(data: Sequence[DataFact]) -> str:
    rows = [
        [
            f"`{fact.key}`",
            f"[{fact.name}](https://huggingface.co/datasets/{fact.name.partition(':')[0]})"
            if fact.is_of_hub
            else f"`{fact.name}`",
            NOTHING if fact.rows is None else f"{fact.rows:,}",
            NOTHING if fact.checksum is None else f"`{fact.checksum[:CHECKSUM_DIGITS]}`",
        ]
        for fact in data
    ]
    shown = markdown(TextTable(["key", "file or data set", "rows", "SHA-256"], rows))
    return f"{shown}\n\nThe first {CHECKSUM_DIGITS} digits of each file's checksum, as the run read it."


def _recipe_text(recipe: Recipe, local_keys: Collection[str]) -> str:
    return to_yaml(_without_places(resolved(recipe), "", {*local_keys, *OUTPUTS}))


def _without_places(value: Any, key: str, local_keys: Collection[str]) -> Any:
    """A tree with file names in the place of paths."""
    if isinstance(value, dict):
        return {
            name: _without_places(child, f"{key}.{name}" if key else str(name), local_keys)
            for name, child in value.items()
        }
    if isinstance(value, list):
        return [_without_places(child, key, local_keys) for child in value]
    if not isinstance(value, str) or key.startswith(FREE_TEXTS):
        return value
    is_place = key in local_keys or value.startswith((*PATH_STARTS, "~")) or Path(value).is_absolute()
    return Path(value).name if is_place and "\n" not in value else value


def _to_fill_in(facts: CardFacts) -> str:
    base = facts.base
    unknown = "" if base.is_of_hub or base.name is None else " The base is a folder: say where it is published."
    wanted = {
        "Intended use": "what it is for, and what it must not be used for.",
        "Limits": "what it gets wrong, in which languages, for whom; how it was looked at beyond the figures above.",
        "License of the data": "whether each data set above may be used for this, and on which terms.",
        "License of the model": (
            f"the base's card says `{base.license}`; whether the data allow the same."
            if base.license
            else "that of the base binds it too."
            if base.name
            else "on which terms it may be used."
        )
        + unknown,
        "Contact": "who answers for it.",
    }
    return "\n".join(f"- **{title}** ({FILL_IN}): {text}" for title, text in wanted.items())
