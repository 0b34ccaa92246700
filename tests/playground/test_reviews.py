from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from align_cli.errors import DataError, RecipeError
from align_cli.playground import reviews
from align_cli.playground.reviews import SentimentClassifier, read_sentences

REAL_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "nltk"


class TwoFiles(NamedTuple):
    liked: Path
    disliked: Path


@pytest.fixture
def made_up(tmp_path: Path) -> TwoFiles:
    """600 distinct sentences of each kind, told apart by one word each, with beginnings in common."""
    files = TwoFiles(tmp_path / "liked.txt", tmp_path / "disliked.txt")
    for path, opinions in zip(files, (("moving", "funny", "fresh"), ("tedious", "stale", "silly")), strict=True):
        rng = random.Random(path.name)
        sentences = [
            f"the {rng.choice(('film', 'plot', 'cast'))} number {number} is {rng.choice(opinions)} ."
            for number in range(600)
        ]
        path.write_text("\n".join(sentences), encoding="utf-8")
    return files


@pytest.fixture
def real() -> TwoFiles:
    """The sentence polarity files."""
    files = TwoFiles(REAL_FOLDER / "rt-polarity.pos.txt.gz", REAL_FOLDER / "rt-polarity.neg.txt.gz")
    if not all(path.exists() for path in files):
        pytest.skip("the sentence polarity files do not lie beside this checkout")
    return files


def sentences_of(pairs: list[dict]) -> list[str]:
    return [pair["prompt"] + pair[side] for pair in pairs for side in ("chosen", "rejected")]


def test_sentences_are_read_once_each_without_blank_lines(tmp_path: Path) -> None:
    content = "one  two .\r\n\n  one two .\nthree\u2028four\n   \n"
    (tmp_path / "a.txt").write_text(content, encoding="utf-8", newline="")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content.encode()))
    assert read_sentences(tmp_path / "a.txt") == ["one two .", "three four"]
    assert read_sentences(tmp_path / "a.txt.gz") == ["one two .", "three four"]


def test_what_is_not_utf8_is_read_as_latin1(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("a café film".encode("latin-1"))
    assert read_sentences(tmp_path / "a.txt") == ["a café film"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "there is no such file"),
        ("empty.txt", b"", "holds no sentence"),
        ("blank.txt", b"\n \n", "holds no sentence"),
        ("broken.txt.gz", b"not gzipped", "cannot be read"),
        ("cut.txt.gz", gzip.compress(random.Random(0).randbytes(500))[:-100], "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_a_remedy(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_sentences(tmp_path / name)
    fault = caught.value.faults[0]
    assert message in fault.what
    assert fault.where == str(tmp_path / name)
    assert fault.hint


def test_parts_have_their_shares_and_depend_on_the_sentence_alone() -> None:
    parts = [reviews.part_of(f"sentence {number}") for number in range(10_000)]
    for part, percent in reviews.PARTS.items():
        assert parts.count(part) / 100 == pytest.approx(percent, abs=2)
    assert [reviews.part_of(text) for text in ("a good film .", "a bad film .")] == ["labeler", "evaluation"]


def test_the_policy_never_sees_a_sentence_of_the_prompts_or_of_the_evaluation(made_up: TwoFiles) -> None:
    corpus = {row["prompt"] + row["completion"] for row in reviews.sft_corpus(*made_up, 2)}
    everything = set(read_sentences(made_up.liked) + read_sentences(made_up.disliked))
    unseen = everything - corpus
    assert {reviews.part_of(sentence) for sentence in corpus} == {"labeler", "scorer"}
    assert {reviews.part_of(sentence) for sentence in unseen} == {"prompts", "evaluation"}
    assert corpus <= everything
    training, held_out = reviews.preferences(*made_up, 2), reviews.eval_preferences(*made_up, 2)
    assert corpus.issuperset(sentences_of(training + held_out))


def test_training_and_evaluation_prompts_are_beginnings_of_their_own_sentences(made_up: TwoFiles) -> None:
    training = [row["prompt"] for row in reviews.prompts(*made_up, 4)]
    held_out = [row["prompt"] for row in reviews.eval_prompts(*made_up, 4)]
    assert len(training) == len(set(training)) > 50
    assert len(held_out) == len(set(held_out)) > 30
    assert not set(training) & set(held_out)
    everything = read_sentences(made_up.liked) + read_sentences(made_up.disliked)
    for prompts, part in ((training, "prompts"), (held_out, "evaluation")):
        beginnings = {" ".join(each.split()[:4]) for each in everything if reviews.part_of(each) == part}
        assert beginnings.issuperset(prompts)


def test_common_beginnings_are_shared_out_between_training_and_evaluation(made_up: TwoFiles) -> None:
    training, held_out = (
        {row["prompt"] for row in make(*made_up, 2)} for make in (reviews.prompts, reviews.eval_prompts)
    )
    assert training and held_out and not training & held_out
    assert training | held_out == {"the film", "the plot", "the cast"}


def test_pairs_begin_alike_and_use_each_sentence_once(made_up: TwoFiles) -> None:
    training, held_out = reviews.preferences(*made_up, 2), reviews.eval_preferences(*made_up, 2)
    used = sentences_of(training + held_out)
    assert len(used) == len(set(used)) > 600
    assert len(training) / len(training + held_out) == pytest.approx(0.9, abs=0.01)
    liked, disliked = set(read_sentences(made_up.liked)), set(read_sentences(made_up.disliked))
    for pair in training + held_out:
        assert len(pair["prompt"].split()) == 2
        assert pair["prompt"] + pair["chosen"] in liked
        assert pair["prompt"] + pair["rejected"] in disliked


def test_the_order_of_the_lines_changes_nothing(made_up: TwoFiles) -> None:
    before = reviews.preferences(*made_up, 2), reviews.sft_corpus(*made_up, 2), reviews.prompts(*made_up, 4)
    for path in made_up:
        path.write_text("\n".join(reversed(read_sentences(path))), encoding="utf-8")
    assert before == (reviews.preferences(*made_up, 2), reviews.sft_corpus(*made_up, 2), reviews.prompts(*made_up, 4))


def test_a_sentence_in_both_files_is_left_out(tmp_path: Path) -> None:
    files = TwoFiles(tmp_path / "liked.txt", tmp_path / "disliked.txt")
    files.liked.write_text("so so .\ngood one .")
    files.disliked.write_text("so so .\nbad one .")
    assert {sentence.text for sentence in reviews.read_labelled(*files)} == {"good one .", "bad one ."}
    with pytest.raises(DataError, match="no sentence that the other file has not"):
        reviews.read_labelled(files.liked, files.liked)


@pytest.mark.parametrize(
    ("prompt_words", "message"),
    [
        (0, "prompt_words is 0; a prompt needs at least 1 word"),
        (3, "share their first 3 words"),
        (99, "first 99 words"),
    ],
)
def test_prompt_words_that_give_no_pair_are_refused(prompt_words: int, message: str, tmp_path: Path) -> None:
    files = TwoFiles(tmp_path / "liked.txt", tmp_path / "disliked.txt")
    files.liked.write_text("\n".join(f"the good film {number} ." for number in range(50)))
    files.disliked.write_text("\n".join(f"the bad film {number} ." for number in range(50)))
    assert reviews.preferences(*files, 1)
    with pytest.raises(DataError, match=message):
        reviews.preferences(*files, prompt_words)


@pytest.mark.parametrize("make", [reviews.prompts, reviews.eval_prompts, reviews.sft_corpus])
def test_prompts_longer_than_every_sentence_are_refused(
    make: Callable[[Path, Path, int], list[dict]], made_up: TwoFiles
) -> None:
    assert make(*made_up, 5)
    with pytest.raises(DataError, match="longer than prompt_words, 30"):
        make(*made_up, 30)


@pytest.mark.parametrize("part", ["labeler", "scorer"])
def test_a_classifier_learns_which_words_are_liked(part: str, made_up: TwoFiles) -> None:
    classifier = SentimentClassifier(str(made_up.liked), str(made_up.disliked), part)
    liked, disliked = classifier(["the film", "the film"], [" number 900 is moving .", " number 900 is silly ."])
    assert liked > 0 > disliked
    assert classifier.accuracy() > 0.95
    assert classifier([], []) == []


def test_repeating_a_good_word_gains_nothing(made_up: TwoFiles) -> None:
    classifier = SentimentClassifier(str(made_up.liked), str(made_up.disliked), "labeler")
    review, repeated = " number 900 is moving .", " moving" * 20
    good, bad = classifier(["the film", "the film"], [review, repeated])
    assert good > bad
    empty, strange = classifier(["", ""], ["", "\x00 漢字"])
    assert empty == strange


def test_the_two_classifiers_are_fitted_apart_and_each_always_alike(made_up: TwoFiles) -> None:
    texts = ["the film"] * 2, [" number 900 is moving .", " number 900 is silly ."]
    labeler, again, scorer = (
        SentimentClassifier(str(made_up.liked), str(made_up.disliked), part)(*texts)
        for part in ("labeler", "labeler", "scorer")
    )
    assert labeler == again
    assert labeler != scorer


def test_a_classifier_names_its_faults(made_up: TwoFiles, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"part is 'scores'.*\nhint: did you mean scorer"):
        SentimentClassifier(str(made_up.liked), str(made_up.disliked), "scores")
    with pytest.raises(DataError, match="no such file"):
        SentimentClassifier(str(tmp_path / "none.txt"), str(made_up.disliked), "scorer")
    (tmp_path / "one.txt").write_text("a good film .")
    with pytest.raises(DataError, match="the scorer part has no sentence of one of the two kinds"):
        SentimentClassifier(str(tmp_path / "one.txt"), str(made_up.disliked), "scorer")


@pytest.mark.parametrize("part", ["labeler", "scorer"])
def test_on_real_sentences_a_classifier_is_right_more_than_seven_times_in_ten(part: str, real: TwoFiles) -> None:
    classifier = SentimentClassifier(str(real.liked), str(real.disliked), part)
    assert 0.70 < classifier.accuracy() < 0.85
    review, degenerate, empty = classifier(
        ["a film"] * 3, [" that is moving , funny and a wonderful surprise .", " wonderful" * 10, ""]
    )
    assert review > degenerate > empty


def test_real_sentences_give_hundreds_of_prompts_and_pairs(real: TwoFiles) -> None:
    assert len(reviews.prompts(*real, 2)) > 800
    assert len(reviews.eval_prompts(*real, 2)) >= 512
    assert len(reviews.preferences(*real, 2)) > 800
    assert len(reviews.eval_preferences(*real, 2)) > 80
    assert len(reviews.sft_corpus(*real, 2)) > 8000
