from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM, RecurrentGemmaConfig, RwkvConfig

from align_cli.engines.base import Request, Sample, SamplingSettings
from align_cli.engines.in_process import TransformersEngine
from align_cli.engines.through_generate import what_goes_together
from align_cli.errors import AlignError
from align_cli.models.load import Policy, load_policy
from align_cli.playground import world
from align_cli.recipe.sections.generate import GenerateSection
from align_cli.seeds import derive_seed

BARE = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=16)
WARPED = SamplingSettings(temperature=0.7, top_k=5, top_p=0.9, max_new_tokens=12)


def sample_all(
    policy: Policy, requests: list[Request], settings: SamplingSettings = BARE, batch_size: int = 64
) -> list[Sample]:
    batches = TransformersEngine(batch_size).generate(policy, requests, settings)
    samples = dict(sample for batch in batches for sample in batch)
    assert sorted(samples) == list(range(len(requests))), "each request is answered once"
    return [samples[index] for index in range(len(requests))]


@pytest.fixture(scope="module")
def requests_of_many_lengths(warm_policy: Policy) -> list[Request]:
    """Prompts of 1 to 40 tokens: the playground's, cut short or joined."""
    rng = random.Random(0)
    ids = [warm_policy.tokenizer(row["prompt"])["input_ids"] for row in world.prompts(0, 400)]
    requests = []
    for index in range(70):
        joined = [token for prompt in rng.sample(ids, 8) for token in prompt]
        requests.append(Request(joined[: rng.randint(1, 40)], derive_seed(0, "test", index)))
    assert len({len(request.prompt_ids) for request in requests}) > 20
    return requests


@contextmanager
def own_generation_config(policy: Policy, **changes: Any) -> Iterator[GenerationConfig]:
    """Give a shared policy another generation config for a while."""
    before = policy.model.generation_config
    policy.model.generation_config = GenerationConfig(**{**before.to_diff_dict(), **changes})
    try:
        yield policy.model.generation_config
    finally:
        policy.model.generation_config = before


def teacher_forced(policy: Policy, prompt_ids: list[int], token_ids: list[int]) -> torch.Tensor:
    """Logits at each sampled position, from one fresh pass over prompt and response alone: (C, V)."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt_ids + token_ids])).logits[0]
    return logits[len(prompt_ids) - 1 : -1].double()


def warp_by_hand(logits_CV: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """Log-probabilities after temperature, then top-k, then top-p; written out, not transformers' own."""
    logits_CV = logits_CV / settings.temperature
    warped = torch.full_like(logits_CV, -torch.inf)
    for position, row in enumerate(logits_CV):
        kept = row.argsort(descending=True)[: settings.top_k or None]
        probabilities = row[kept].softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        kept = kept[before < settings.top_p]
        warped[position, kept] = row[kept]
    return warped.log_softmax(-1)


def test_a_response_is_the_same_at_every_batch_size(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    runs = [sample_all(warm_policy, requests_of_many_lengths, batch_size=size) for size in (1, 7, 64)]
    assert len({tuple(sample.token_ids) for sample in runs[0]}) > 60, "the responses differ from each other"
    for other in runs[1:]:
        assert [sample.token_ids for sample in other] == [sample.token_ids for sample in runs[0]]
        assert [sample.finish_reason for sample in other] == [sample.finish_reason for sample in runs[0]]
        for one, same in zip(runs[0], other, strict=True):
            assert same.logps == pytest.approx(one.logps, abs=1e-4)


def test_a_response_depends_on_its_own_prompt_and_seed_alone(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    some = requests_of_many_lengths[3:9]
    together = sample_all(warm_policy, requests_of_many_lengths)
    assert [s.token_ids for s in sample_all(warm_policy, some)] == [s.token_ids for s in together[3:9]]
    backwards = sample_all(warm_policy, requests_of_many_lengths[::-1])[::-1]
    assert [s.token_ids for s in backwards] == [s.token_ids for s in together]


def test_the_random_state_of_torch_and_python_is_neither_read_nor_moved(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    torch.manual_seed(0)
    random.seed(0)
    before = torch.get_rng_state(), random.getstate()
    first = sample_all(warm_policy, requests_of_many_lengths[:8])
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    torch.manual_seed(1)
    assert sample_all(warm_policy, requests_of_many_lengths[:8]) == first


def test_another_seed_gives_another_response(warm_policy: Policy) -> None:
    prompt_ids = warm_policy.tokenizer("review of the food :")["input_ids"]
    samples = sample_all(warm_policy, [Request(prompt_ids, seed) for seed in range(64)])
    assert len({tuple(sample.token_ids) for sample in samples}) > 55


@pytest.mark.parametrize("settings", [BARE, WARPED], ids=["bare", "warped"])
def test_log_probabilities_are_those_of_the_sampling_distribution(
    settings: SamplingSettings, warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    requests = requests_of_many_lengths[:24]
    samples = sample_all(warm_policy, requests, settings)
    for request, sample in zip(requests, samples, strict=True):
        logps_CV = warp_by_hand(teacher_forced(warm_policy, request.prompt_ids, sample.token_ids), settings)
        expected = logps_CV.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0].tolist()
        assert sample.logps == pytest.approx(expected, abs=1e-4)
        assert all(logp <= 0 for logp in sample.logps)


def test_top_k_of_one_takes_the_likeliest_token(warm_policy: Policy, requests_of_many_lengths: list[Request]) -> None:
    request = requests_of_many_lengths[0]
    (sample,) = sample_all(warm_policy, [request], BARE._replace(top_k=1))
    logits = teacher_forced(warm_policy, request.prompt_ids, sample.token_ids)
    assert sample.token_ids == logits.argmax(-1).tolist()
    assert sample.logps == [0.0] * len(sample.token_ids)


@pytest.mark.parametrize("settings", [BARE, WARPED], ids=["bare", "warped"])
def test_first_tokens_are_drawn_with_the_models_own_frequencies(
    settings: SamplingSettings, warm_policy: Policy
) -> None:
    num_samples = 3000
    prompt_ids = warm_policy.tokenizer("review of the food :")["input_ids"]
    requests = [Request(prompt_ids, derive_seed(1, "first", index)) for index in range(num_samples)]
    samples = sample_all(warm_policy, requests, settings._replace(max_new_tokens=1), batch_size=1000)
    probabilities = warp_by_hand(teacher_forced(warm_policy, prompt_ids, [1]), settings)[0].exp()
    check_frequencies(Counter(sample.token_ids[0] for sample in samples), probabilities * num_samples)


def test_second_tokens_are_drawn_with_a_number_of_their_own(warm_policy: Policy) -> None:
    """Against Σ p(first) p(second | first) over all first tokens that do not end the response."""
    num_samples, eos = 3000, warm_policy.tokenizer.eos_token_id
    prompt_ids = warm_policy.tokenizer("review of the food :")["input_ids"]
    requests = [Request(prompt_ids, derive_seed(2, "second", index)) for index in range(num_samples)]
    samples = sample_all(warm_policy, requests, BARE._replace(max_new_tokens=2), batch_size=1000)
    first_V = teacher_forced(warm_policy, prompt_ids, [1])[0].softmax(-1)
    first_V[eos] = 0
    every_first = torch.tensor([[*prompt_ids, token] for token in range(len(first_V))])
    with torch.no_grad():
        second_VV = warm_policy.model(input_ids=every_first).logits[:, -1].double().softmax(-1)
    counts = Counter(sample.token_ids[1] for sample in samples if len(sample.token_ids) == 2)
    check_frequencies(counts, first_V @ second_VV * sum(counts.values()) / first_V.sum())


def check_frequencies(counts: Counter[int], expected_V: torch.Tensor) -> None:
    """Pearson's chi-square over the tokens that are expected five times or more; the rest are one class."""
    common = [token for token, number in enumerate(expected_V.tolist()) if number >= 5]
    assert len(common) >= 3
    num_samples = sum(counts.values())
    cells = [(counts[token], expected_V[token].item()) for token in common]
    rest = (num_samples - sum(seen for seen, _ in cells), num_samples - sum(number for _, number in cells))
    if rest[1] > 1e-6:
        cells.append(rest)
    else:
        assert rest[0] == 0, "a token of probability 0 was drawn"
    chi_square = sum((seen - number) ** 2 / number for seen, number in cells)
    freedom = len(cells) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_a_models_own_generation_config_does_not_change_what_is_sampled(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    requests = requests_of_many_lengths[:16]
    plain = sample_all(warm_policy, requests)
    with own_generation_config(
        warm_policy,
        repetition_penalty=1.8,
        temperature=0.3,
        top_k=3,
        top_p=0.5,
        do_sample=True,
        no_repeat_ngram_size=2,
        min_new_tokens=9,
        max_length=5,
        num_return_sequences=2,
    ) as own:
        assert sample_all(warm_policy, requests) == plain
        assert warm_policy.model.generation_config is own


def test_a_model_keeps_its_generation_config_where_generation_fails(
    warm_policy: Policy, requests_of_many_lengths: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_generation_config(warm_policy, repetition_penalty=1.8) as own:

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("the device is gone")

        with monkeypatch.context() as patched:
            patched.setattr(warm_policy.model, "forward", fail)
            with pytest.raises(RuntimeError, match="the device is gone"):
                sample_all(warm_policy, requests_of_many_lengths[:2])
        assert warm_policy.model.generation_config is own


def test_a_response_stops_with_its_end_of_sequence_or_at_the_length(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    eos = warm_policy.tokenizer.eos_token_id
    samples = sample_all(warm_policy, requests_of_many_lengths)
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}, "both kinds are there to be tested"
    for sample in samples:
        assert len(sample.logps) == len(sample.token_ids) <= BARE.max_new_tokens
        assert eos not in sample.token_ids[:-1]
        assert (sample.token_ids[-1] == eos) is (sample.finish_reason == "stop")
        if sample.finish_reason == "length":
            assert len(sample.token_ids) == BARE.max_new_tokens


def test_every_end_of_sequence_id_ends_a_response(warm_policy: Policy, requests_of_many_lengths: list[Request]) -> None:
    own = warm_policy.tokenizer.eos_token_id
    plain = sample_all(warm_policy, requests_of_many_lengths)
    frequent = Counter(token for sample in plain for token in sample.token_ids if token != own).most_common(1)[0][0]
    with own_generation_config(warm_policy, eos_token_id=[frequent]):
        stopped = sample_all(warm_policy, requests_of_many_lengths)
    assert {sample.token_ids[-1] for sample in stopped if sample.finish_reason == "stop"} == {own, frequent}
    for before, after in zip(plain, stopped, strict=True):
        cut = before.token_ids.index(frequent) + 1 if frequent in before.token_ids else len(before.token_ids)
        assert after.token_ids == before.token_ids[:cut]


def test_a_tokenizer_that_pads_with_the_end_of_sequence_gives_the_same_responses(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    plain = sample_all(warm_policy, requests_of_many_lengths[:16])
    pad_token = warm_policy.tokenizer.pad_token
    warm_policy.tokenizer.pad_token = warm_policy.tokenizer.eos_token
    try:
        assert sample_all(warm_policy, requests_of_many_lengths[:16]) == plain
    finally:
        warm_policy.tokenizer.pad_token = pad_token


def test_a_tokenizer_that_names_no_attention_mask_gives_the_same_responses(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    tokenizer = copy.deepcopy(warm_policy.tokenizer)
    tokenizer.model_input_names = ["input_ids"]
    tokenizer.pad_token = tokenizer.eos_token  # so that no mask can be guessed from the padding
    unmasked = replace(warm_policy, tokenizer=tokenizer)
    assert sample_all(unmasked, requests_of_many_lengths) == sample_all(warm_policy, requests_of_many_lengths)


def test_a_policy_whose_logits_are_not_finite_is_a_user_error(tiny_policy_folder: Path) -> None:
    """Its log-probabilities are NaN, which no artifact can hold: so far that ends in a traceback from `json`."""
    policy = load_policy(tiny_policy_folder)
    with torch.no_grad():
        next(policy.model.parameters()).fill_(torch.nan)
    with pytest.raises(AlignError):
        sample_all(policy, [Request([3, 4], 1)])


def test_nothing_asked_is_nothing_done(warm_policy: Policy) -> None:
    assert sample_all(warm_policy, []) == []


def test_a_batch_that_is_done_is_passed_over_and_one_that_lacks_a_response_is_made_whole(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    requests, engine, settings = requests_of_many_lengths[:7], TransformersEngine(2), BARE
    whole = list(engine.generate(warm_policy, requests, settings))
    first = [index for index, _ in whole[0]]
    assert list(engine.generate(warm_policy, requests, settings, done=first)) == whole[1:]
    assert list(engine.generate(warm_policy, requests, settings, done=first[:1])) == whole
    assert list(engine.generate(warm_policy, requests, settings, done=range(len(requests)))) == []


class Unmasked(LlamaForCausalLM):
    """A model that reads whatever stands before a prompt, as those whose state runs on over padding."""

    def forward(self, *arguments: Any, attention_mask: Any = None, position_ids: Any = None, **others: Any) -> Any:
        return super().forward(*arguments, **others)


def unmasked(policy: Policy) -> Policy:
    model = Unmasked(policy.model.config)
    model.load_state_dict(policy.model.state_dict())
    return replace(policy, model=model.eval())


def rwkv(policy: Policy) -> Policy:
    """Its state, as transformers 5 hands it on, mixes up the sequences of a batch."""
    size = policy.model.get_input_embeddings().num_embeddings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = RwkvConfig(vocab_size=size, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
        return replace(policy, model=AutoModelForCausalLM.from_config(config).eval())


@pytest.mark.parametrize(("other", "together"), [(None, "any"), (unmasked, "one length"), (rwkv, "none")])
def test_only_what_a_model_keeps_apart_is_sampled_together(
    other: Any, together: str, warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    policy = other(warm_policy) if other else warm_policy
    assert what_goes_together(policy) == together
    notes: list[str] = []
    engine = TransformersEngine(8, notes.append)
    requests = requests_of_many_lengths[:24]
    for _ in range(2):
        batches = list(engine.generate(policy, requests, BARE))
        samples = dict(sample for batch in batches for sample in batch)
        for index, request in enumerate(requests):
            logps_CV = teacher_forced(policy, request.prompt_ids, samples[index].token_ids).log_softmax(-1)
            expected = logps_CV.gather(-1, torch.tensor(samples[index].token_ids)[:, None])[:, 0].tolist()
            assert samples[index].logps == pytest.approx(expected, abs=1e-4)
    assert len(notes) == (together != "any"), "said once a model"
    sizes = {len({len(requests[index].prompt_ids) for index, _ in batch}) for batch in batches}
    assert sizes == {1} if together != "any" else max(sizes) > 1


def test_at_the_lowest_temperature_of_a_recipe_the_likeliest_token_is_sampled(
    warm_policy: Policy, requests_of_many_lengths: list[Request]
) -> None:
    (lowest,) = (limit.ge for limit in GenerateSection.model_fields["temperature"].metadata if hasattr(limit, "ge"))
    for request in requests_of_many_lengths[:4]:
        (sample,) = sample_all(warm_policy, [request], BARE._replace(temperature=lowest))
        likeliest = teacher_forced(warm_policy, request.prompt_ids, sample.token_ids).argmax(-1)
        assert sample.token_ids == likeliest.tolist() and sample.logps == [0.0] * len(likeliest)


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_a_model_that_transformers_cannot_generate_with_is_told_in_words(num_prompts: int, tiny_policy: Policy) -> None:
    """As one of recurrent layers alone, whose cache counts no tokens."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "lru_width": 16, "num_attention_heads": 2, "head_dim": 8}
    config = RecurrentGemmaConfig(vocab_size=191, num_hidden_layers=1, num_key_value_heads=1, **sizes)
    policy = replace(tiny_policy, model=AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(AlignError, match="transformers cannot generate with this model: ") as caught:
        sample_all(policy, [Request([5, 6, 7], seed) for seed in range(num_prompts)])
    assert "layers of attention" in caught.value.faults[0].hint
