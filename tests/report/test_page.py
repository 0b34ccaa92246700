"""A report's data and its page: one file, which asks nobody for anything and runs nothing that a text told it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from align_cli.artifacts.records import Completion
from align_cli.recipe import load_recipe
from align_cli.report.facts import Alert, RunFacts
from align_cli.report.page import report_json, report_page
from align_cli.report.twin import report_twin

MakeFacts = Callable[..., RunFacts]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]><img src=x onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>",
    "{{ 7 * 7 }} {% raw %} \u2028 \u2029 \x00 \ud83d",
]


class Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def data(self) -> Any:
        """What stands in the page as its data."""
        return json.loads(self.scripts[0])


def twin_of(*runs: RunFacts) -> dict[str, Any]:
    return report_twin(runs, command="align report runs/mine", time="2026-01-02T03:04:05Z")


def table_after(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading."""
    table = page.partition(f">{heading}</h3>")[2].partition("</table>")[0].partition("<table")[2]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_the_data_in_the_page_is_that_of_the_file_beside_it(make_facts: MakeFacts) -> None:
    twin = twin_of(make_facts())
    assert Page(report_page(twin)).data == json.loads(report_json(twin)) == twin


def test_a_page_loads_nothing_and_runs_its_own_scripts_alone(make_facts: MakeFacts) -> None:
    text = report_page(twin_of(make_facts()))
    page = Page(text)
    loading = {"src", "href", "srcset", "action", "data", "poster", "formaction"}
    found = [value for _, attributes in page.tags for name, value in attributes.items() if name in loading]
    assert [value for value in found if not (value or "").startswith(("#", "data:,"))] == []
    assert not re.search(r"url\(|@import", text)
    assert [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)] == []
    rules = next(
        attributes["content"] or ""
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in page.scripts[1:]]
    assert rules.startswith("default-src 'none'; ")
    assert rules.endswith("script-src " + " ".join(f"'sha256-{one}'" for one in hashes))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_texts_of_models_and_of_files_stay_texts(
    make_facts: MakeFacts, make_completion: Callable[..., Completion], hostile: str
) -> None:
    harmless, sample = Page(report_page(twin_of(make_facts(alerts=[Alert(1, "kl", "warn", "said")])))), make_completion
    facts = make_facts(
        path=hostile,
        why=hostile,
        origin=hostile,
        alerts=[Alert(1, "kl", "warn", hostile)],
        samples={one: [sample(0, prompt=hostile, completion=hostile, scores={hostile: 1.0})] for one in (0, 1, 2)},
        token=lambda number: hostile,
        ledger=[
            {"event": "finish", "time": "t", "round": 1, "stage": hostile, "seconds": 1.0, "figures": {hostile: 2}},
            {
                "event": "finish",
                "time": "t",
                "round": 1,
                "stage": "label",
                "seconds": 1.0,
                "figures": {"labelers": {hostile: {hostile: 3}}, "health": {"agreement": {hostile: {"agreement": 1}}}},
            },
        ],
    )
    twin = twin_of(facts)
    page = Page(report_page(twin))
    assert len(page.scripts) == len(harmless.scripts) == 3
    assert page.scripts[1:] == harmless.scripts[1:]
    assert page.data["runs"][0]["samples"]["prompts"] == [hostile]
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in harmless.tags} <= {"details", "summary", "meter", "h4"}
    assert [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)] == []
    assert page.data == json.loads(report_json(twin))
    assert report_page(twin).encode()
    assert report_json(twin).encode()


def test_each_round_is_a_row_with_its_win_rates_and_the_chosen_one_is_named(make_facts: MakeFacts) -> None:
    rows = table_after(report_page(twin_of(make_facts(policies={1: 0}))), "Rounds")
    assert rows[0][:8] == ["round", "win vs initial", "LC vs initial", "n", "reward", "KL", "length", "EOS"]
    assert rows[1][:4] == ["0", "–", "–", "16"]
    assert rows[2][0] == "1 rolled back to 0"
    assert rows[3][:7] == [
        "2 chosen",
        "0.62 [0.50, 0.75]",
        "0.60 [0.45, 0.70]",
        "16",
        "1.00 ± 0.10",
        "3.00 ± 0.20",
        "11.5",
    ]


def test_several_runs_have_a_section_each_and_their_rounds_side_by_side(make_facts: MakeFacts) -> None:
    page = report_page(twin_of(make_facts(path="runs/a"), make_facts(1, path="runs/b")))
    assert [tag for tag, _ in Page(page).tags].count("article") == 2
    table = page.partition('id="beside"')[2].partition("</table>")[0]
    cells = [re.findall(r">([^<>]+)</t[hd]>", row) for row in table.split("<tr")[1:]]
    won = "0.62 [0.50, 0.75] · LC 0.60 [0.45, 0.70]"
    assert cells == [
        ["round", "runs/a", "runs/b"],
        ["0", "reward 0.00 · KL 0.00", "reward 0.00 · KL 0.00"],
        ["1", f"{won} · reward 0.50 · KL 1.50", f"{won} · reward 0.50 · KL 1.50"],
        ["2", f"{won} · reward 1.00 · KL 3.00", "–"],
    ]
    assert "different scorers" not in page
    assert "Rounds side by side" not in report_page(twin_of(make_facts()))


def test_runs_that_were_judged_by_different_scorers_are_not_to_be_compared(
    make_facts: MakeFacts, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    other = load_recipe(write_recipe(tmp_path / "other", evaluate=None))
    assert "different scorers" in report_page(twin_of(make_facts(), make_facts(recipe=other)))


def test_a_run_that_has_nothing_yet_says_so(make_facts: MakeFacts) -> None:
    empty: dict[str, Any] = {"evaluations": [], "training": {}, "samples": {}, "chosen": None, "state": "interrupted"}
    page = report_page(twin_of(make_facts(**empty)))
    words = " ".join(Page(page).words)
    for said in ("No round has been evaluated", "Nothing has been trained yet", "No stage is finished", "no held-out"):
        assert said in words


def test_time_tokens_and_memory_are_summed_by_stage_and_what_was_not_finished_is_counted(make_facts: MakeFacts) -> None:
    def event(kind: str, number: int, stage: str, **fields: Any) -> dict[str, Any]:
        return {"event": kind, "time": "t", "round": number, "stage": stage, **fields}

    ledger = [
        event("start", 1, "generate"),
        event("start", 1, "generate"),
        event("finish", 1, "generate", seconds=2.0, peak_memory_bytes=5, figures={"completions": 10, "tokens": 100}),
        event("start", 2, "generate"),
        event("finish", 2, "generate", seconds=4.0, peak_memory_bytes=7, figures={"completions": 10, "tokens": 60}),
        event("finish", 2, "train", seconds=18.0, figures="edited by hand"),
    ]
    run = twin_of(make_facts(ledger=ledger))["runs"][0]
    generate, train = run["stages"]["totals"]
    assert (generate["times"], generate["seconds"], generate["share"], generate["tokens"]) == (2, 6.0, 0.25, 160)
    assert (generate["peak_memory_bytes"], generate["peak_gpu_memory_bytes"]) == (7, None)
    assert (train["seconds"], train["tokens"]) == (18.0, None)
    assert [one["figures"]["tokens_per_second"] for one in run["engine"]] == [50.0, 15.0]
    assert [one["figures"]["tokens_per_completion"] for one in run["engine"]] == [10.0, 6.0]
    assert run["stages"]["unfinished"] == 0


def test_labels_show_length_only_accuracy_and_a_judges_position_bias(make_facts: MakeFacts) -> None:
    health = {"tie_share": 0.25, "longer_won": 0.125, "agreement": {"labels and truth": {"agreement": 0.75}}}
    said = {"judge": {"position_bias": -0.125, "answers": 8}}
    figures = {"health": health, "labelers": said}
    ledger = [{"event": "finish", "time": "t", "round": 1, "stage": "label", "seconds": 1.0, "figures": figures}]
    twin = twin_of(make_facts(ledger=ledger))
    assert twin["runs"][0]["labels"]["rounds"][0]["length_accuracy"] == 0.875
    page = report_page(twin)
    assert table_after(page, "Label health")[1] == ["1", "25%", "–", "0.12", "0.88", "0.75"]
    assert ">position bias</th>" in page
    assert ">-0.125</td>" in page
