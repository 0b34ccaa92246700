from __future__ import annotations

import math
import random

import pytest

import align_cli.playground
from align_cli.errors import RecipeError
from align_cli.playground import hidden_reward
from align_cli.playground.grammar import PLAIN_WRITER, all_prompts, write_review
from align_cli.playground.reward import NoisyReward, reward_parts

PROMPT = "review of the food at the inn on monday :"
GOOD_REVIEW = " the soup was superb and i liked the bread ."


def reward(completion: str, prompt: str = PROMPT) -> float:
    return hidden_reward([prompt], [completion])[0]


@pytest.mark.parametrize(
    ("completion", "sentiment", "relevance", "cost"),
    [
        pytest.param(" the soup was superb and i liked the bread .", 1.5, 1.0, 0.1, id="nine words, one over"),
        pytest.param(" the soup was superb . i loved the bread .", 2.0, 1.0, 0.0, id="the best there is"),
        pytest.param(" the soup was superb . we loved the lovely bread .", 2.0, 1.0, 0.1, id="sentiment is cut at 2"),
        pytest.param(" the soup was very good today .", 0.75, 0.5, 0.5, id="very, and a word not known"),
        pytest.param(" we found the soup rather awful .", -0.5, 0.5, 0.0, id="a hedge halves"),
        pytest.param(" the soup was not awful .", 1.0, 0.5, 0.0, id="not turns round"),
        pytest.param(" the lamp was good and i liked the villain .", 1.0, -1.0, 0.1, id="two words of other topics"),
        pytest.param(" the soup and the bread and the fish .", 0.0, 1.0, 0.0, id="a third topic word is free"),
        pytest.param(" we arrived late .", 0.0, 0.0, 1.0, id="two words short"),
        pytest.param(" the soup was good and the soup was good", 0.5, 0.5, 2.1, id="said twice, and not ended"),
        pytest.param("", 0.0, 0.0, 3.5, id="empty"),
    ],
)
def test_the_parts_of_the_reward_are_those_worked_by_hand(
    completion: str, sentiment: float, relevance: float, cost: float
) -> None:
    parts = reward_parts(PROMPT, completion)
    assert parts == pytest.approx((sentiment, relevance, cost))
    assert reward(completion) == pytest.approx(sentiment + relevance - cost)


def test_relevance_is_to_the_topic_of_the_prompt() -> None:
    assert reward(GOOD_REVIEW) == pytest.approx(2.4)
    assert reward(GOOD_REVIEW, "review of the film at the inn on monday :") == pytest.approx(0.4)


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param("", id="empty"),
        pytest.param(" .", id="only a full stop"),
        pytest.param(" superb .", id="one good word"),
        pytest.param(" superb" * 10 + " .", id="one good word again and again"),
        pytest.param(" superb . superb . superb . superb . superb .", id="one good word in sentences"),
        pytest.param(" superb wonderful lovely delightful excellent .", id="a list of good words"),
        pytest.param(" soup bread fish sauce dessert .", id="a list of topic words"),
        pytest.param(" the soup was superb and" + " i liked the bread and" * 6, id="endless"),
        pytest.param(" the the the the the the the the .", id="stuttering"),
        pytest.param(" Zxq 1234 \x00 ¿qué? 漢字 <eos> {}", id="gibberish"),
    ],
)
def test_degenerate_text_scores_below_a_good_review(completion: str) -> None:
    assert reward(completion) < reward(GOOD_REVIEW) - 0.3


def test_empty_and_endless_and_repeated_text_score_below_the_average_review() -> None:
    rng = random.Random(0)
    prompts = rng.choices(all_prompts(), k=500)
    scores = hidden_reward(prompts, [write_review(prompt, PLAIN_WRITER, rng) for prompt in prompts])
    average = sum(scores) / len(scores)
    for completion in ("", " superb" * 24, " the soup was superb and" * 6):
        assert reward(completion) < average - 0.5


def test_a_heap_of_good_words_can_equal_a_good_review_but_not_beat_it() -> None:
    best_review = " the soup was superb . i loved the bread ."
    assert reward(" soup bread was superb wonderful .") == reward(best_review) == 3
    assert reward(" soup bread was superb wonderful lovely fish .") == 3


def test_no_text_of_known_words_scores_above_three() -> None:
    words = ["the", "soup", "bread", "was", "superb", "wonderful", "loved", "very", "truly", "and", "i", "lamp", "."]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(5000)]
    scores = hidden_reward([PROMPT] * len(texts), texts)
    assert max(scores) <= 3
    assert max(scores) > 2, "the search should come near the bound"


def test_foreign_prompts_and_wild_text_get_a_finite_score() -> None:
    prompts = ["", "why?", PROMPT, "\n\t", "the food the film"]
    completions = ["x" * 10_000, "", " \u2028\x00", GOOD_REVIEW * 200, "😀 ."]
    assert all(math.isfinite(score) for score in hidden_reward(prompts, completions))


def test_texts_of_equal_worth_tie_exactly() -> None:
    longer, shorter = " the soup was fine and i tried the bread .", " i tried the soup and found the bread fine ."
    assert reward(longer) == reward(shorter)
    assert reward(" the soup was hardly plain but we arrived late .") == 0.4


def test_the_reward_takes_what_trl_hands_over_and_refuses_uneven_lists() -> None:
    scores = align_cli.playground.hidden_reward(
        prompts=[PROMPT], completions=[GOOD_REVIEW], completion_ids=[[1, 2]], trainer_state=None
    )
    assert scores == pytest.approx([2.4])
    with pytest.raises(ValueError, match="shorter"):
        hidden_reward([PROMPT, PROMPT], [GOOD_REVIEW])


class TestANoisyAnnotator:
    def test_compares_as_bradley_terry_does(self) -> None:
        """Of 4,000 pairs of one difference, as many as its sigmoid says, to within four standard errors."""
        good, plain = GOOD_REVIEW, " the soup was good and we had the bread ."
        prompts = [f"{PROMPT}{number}" for number in range(4000)]
        for temperature in (0.5, 1.0, 2.0):
            annotator = NoisyReward(temperature)
            pairs = zip(annotator(prompts, [good] * 4000), annotator(prompts, [plain] * 4000), strict=True)
            share = sum(one > other for one, other in pairs) / 4000
            margin = hidden_reward(prompts[:1], [good])[0] - hidden_reward(prompts[:1], [plain])[0]
            expected = 1 / (1 + math.exp(-margin / temperature))
            assert 0.6 < expected < 0.95
            assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))

    def test_does_not_change_their_mind_and_is_not_another(self) -> None:
        texts = [GOOD_REVIEW, ""]
        assert NoisyReward()([PROMPT] * 2, texts) == NoisyReward()([PROMPT] * 2, texts)
        assert NoisyReward(seed=1)([PROMPT] * 2, texts) != NoisyReward()([PROMPT] * 2, texts)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
    def test_has_some_noise(self, temperature: float) -> None:
        with pytest.raises(RecipeError, match="must be above 0"):
            NoisyReward(temperature)
