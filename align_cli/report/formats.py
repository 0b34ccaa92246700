"""The reference of data formats as Markdown, made from the table of formats itself."""

from __future__ import annotations

from align_cli.data.formats import FORMATS
from align_cli.data.formats.base import Format

INTRODUCTION = """# Data

Prompts, pairs and demonstrations are read from `.jsonl`, `.json`, `.csv`, `.txt` (each also `.gz`) and `.parquet`
files, from a folder with one file a split, and from the Hub (`org/name`, or `org/name:configuration`). What a row is,
is told by its fields; the formats are below. `align data SOURCE` shows what a source holds before anything is trained
on it:

```bash
align data pairs.jsonl                                     # what it is, counts, lengths, ties, three examples
align data pairs.jsonl --policy HuggingFaceTB/SmolLM2-135M-Instruct   # in the policy's tokens, by its chat template
align data pairs.jsonl --eval held_out.jsonl               # are evaluation prompts among them?
align data safe.jsonl data.criterion=safer -o pairs.jsonl  # write TRL's format
```

A split and a part of the rows stand in brackets behind the name, here and in every recipe: `org/name[test_prefs]`,
`pairs.jsonl[:600]` and `pairs.jsonl[600:]` for the rest, `org/name[train][:10%]`.

It takes every key of `data` as `align train` does, and `--for pairs`, `demonstrations` or `prompts` where a source
gives several. `--json` has all figures; no weights are loaded.

## Where a format leaves a choice

- `data.criterion`: which of several judgements decides. Without it, rows that have several are refused, and the
  message lists them.
- `data.pairs`: of a prompt with several scored answers, `best_worst` or `all` pairs. Answers of the same score are no
  pair, and are counted.
- `data.as_chat`: `auto` makes conversations of text where the policy has a chat template. A prompt is what the user
  says, an answer what the assistant says; Alpaca rows lose their template, transcripts become their turns. Which rows
  were what is said when a run begins. `always` and `never` do as they say. Under `auto`, a file in which some rows
  are text and others are conversations is refused.
- `data.system_prompt`: begins every conversation that has no system message.
- `data.thinking`: `strip` takes `<think>...</think>` and reasoning fields out of a dataset's responses.
- `label.thinking`: `strip` hides thinking blocks of sampled responses from labelers and scorers. What is trained on
  stays what was sampled.

A pair whose dataset calls it a tie keeps a label of one half, and `label.ties` says what becomes of it;
`label.equal_texts` and `label.empty_texts` likewise. Left out while reading, and counted, is what is no pair: answers
to different prompts, an answer alone, answers of the same score.

## How long rows may be

`data.max_prompt_tokens` and `data.max_completion_tokens` bound prompts and a dataset's answers, in the policy's own
tokens as its template renders them; the model's context bounds both together (of prompts to sample, with
`generate.max_new_tokens`). `data.too_long` says what becomes of longer rows, of training prompts, held-out prompts,
pairs and demonstrations alike:

- `refuse`: the run does not begin, and all of them are named, with what would let them in.
- `drop`: they are left out. The other prompts come in the order in which they would come with them.
- `cut`: they are shortened, towards the answer. A text prompt loses its beginning, at the border of a token (TRL's
  `keep_end`). A conversation loses its oldest turns, whole, so that it begins with the user, and keeps system message
  and tools; where its last turn alone is too long, the row is left out. An answer loses its end, and gets no token that
  ends a turn: the policy must not learn to stop there. A pair that exceeds the context together with its prompt has its
  prompt cut first, to no less than half of the context, then its answers.

How many were left out and cut is said when a run begins and by `align check`, and stands in the ledger of every stage
that read them. Said there as well: how many prompts of `data.eval_prompts` it trains on, but for case and white space.
Artifacts hold prompts as they were cut: that is what the policy, the labelers and training saw.
`align data SOURCE --policy MODEL` shows how many rows some limits would leave; with the keys set, what becomes of the
others. Its `-o` writes the rows that are left, prompts as they are cut and answers whole.

## Large files

Rows are read from a file when they are asked for, and made into tokens when they are drawn: what memory holds of a
`.jsonl` or `.parquet` file, or of a data set of the Hub, is some 20 bytes a row, which say where it lies, how long it
is and what becomes of it ([table](../benchmarks/results/scale.md)). `.json`, `.csv` and `.txt` files, parts that are
counted from the end or in percent (`[-600:]`, `[:10%]`), and formats that take several rows to say something are read
as a whole first; `align data` and a reward model's pairs stay in memory.

What was found of a file of a mebibyte or more is remembered: its rows as they were read, and what becomes of each in
the policy's eyes. The next `align check` or `align train` renders and measures them again only where something has
changed: a byte of the file, a key that matters, the tokenizer or its chat template, align's code, a library's version.
Rows with faults are looked for, and told, every time; so is everything where a chat template reads the clock, or a
tokenizer is code of its own. It lies in `$XDG_CACHE_HOME/align`, else in `~/.cache/align`, where nobody else can look,
holds the data's text, may be removed at any time, and goes when nothing has asked for it in a month.

To add a format: one file in `align_cli/data/formats/` with one `Format`, and a line in the table there.
"""


def formats_reference() -> str:
    """The section of `docs/data.md` that shows every format: its fields, what it gives, an example."""
    return "\n".join(["## Formats", "", "The first that recognises a row reads it.", *map(_entry, FORMATS)])


def _entry(known: Format) -> str:
    gives = (
        "Refused: it holds answers without their questions" if known.is_refused else f"Gives {', '.join(known.gives)}"
    )
    return f"\n### {known.name}\n\n{known.fields}. {gives}.\n\n```json\n{known.example}\n```"
