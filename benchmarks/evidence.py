"""Every study behind docs/evidence.md: runs what is left of it, and keeps its tables and its picture.

    make evidence                                       # all of them, and the page
    python benchmarks/evidence.py few plenty --jobs 2   # some

Each is one `align study`, whose command stands above its tables. Interrupted, it goes on where it stopped. A run that
another study has finished, with the same recipe but for its folder, is copied: it would end in the same bytes. All take
many hours of two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from align_cli.errors import AlignError
from align_cli.recipe import Recipe, load_recipe, resolved
from align_cli.report.tables import TextTable, markdown
from align_cli.study.definition import define
from align_cli.study.folder import StudyFolder
from align_cli.study.values import parse_axes, parse_seeds
from align_cli.study.work import is_finished

ROOT = Path(__file__).parent.parent
TABLES, PICTURES = ROOT / "benchmarks" / "results" / "evidence", ROOT / "docs" / "pictures"
RUNS = Path("runs") / "evidence"
ARMS = "recipes/evidence/arms"
LOSSES = {"ipo": "method.beta=1.0", "slic": "method.beta=0.5"}
"""The losses besides DPO, each with the beta that tuning seeds chose, as docs/evidence.md says."""
SETTINGS = ("plenty", "few", "other-writer", "almost-none")


class Study(NamedTuple):
    """One table of the page.

    Args:
        folder: below `runs/evidence`, shared by studies of the same runs.
        words: what follows `align study`, but for the folder.
    """

    folder: str
    words: tuple[str, ...]


def arms(*names: str) -> tuple[str, str]:
    """The axis of arms; the others are compared with the first."""
    return "--over", "preset=" + ",".join(f"{ARMS}/{name}.yaml" for name in names)


def on_playground(setting: str, *words: str) -> Study:
    """A study of one kind of offline data."""
    own = ("recipes/evidence/playground.yaml", f"playground.setting={setting}")
    return Study(f"playground-{setting}", (*own, *words, "--seeds", "10"))


def studies() -> dict[str, Study]:
    """Every study by the name of its table."""
    found = {}
    for setting in SETTINGS:
        ours = ("offline-kl", f"more-k8-{setting}", "sail-dpr", "sail-dpr-c", "iterative")
        found[setting] = on_playground(setting, *arms("offline", *ours))
    for setting in SETTINGS:
        published = (f"more-k2-{setting}", "iterative-k2", "sail-dpr-k2", "dpr", "dpr-c0")
        found[f"{setting}-published"] = on_playground(setting, *arms("offline-02", *published))
    for setting in SETTINGS:
        labelled = ("offline-02", "ddp", "ddp-c0", "dpp", "dpp-c0", "mix", "mix-c0", "revkl", "revkl-c0")
        found[f"{setting}-labels"] = on_playground(setting, *arms("offline", *labelled))
    for setting in SETTINGS:
        held = ("offline-weight-01", "offline-weight-0", "sail-dpr", "sail-dpr-weight-10", "sail-dpr-weight-20")
        found[f"{setting}-weights"] = on_playground(setting, *arms("offline", *held))
    for setting in SETTINGS:
        for name, compared in pairs(setting).items():
            found[f"{setting}-{name}"] = on_playground(setting, *arms(*compared))
    for setting in SETTINGS:
        own = ("recipes/evidence/noisy.yaml", f"playground.setting={setting}")
        noisy = {"noisy": ("offline", "sail-dpr", "iterative"), "noisy-labels-k8": (f"more-k8-{setting}", "sail-dpr")}
        for name, compared in noisy.items():
            found[f"{setting}-{name}"] = Study(f"noisy-{setting}", (*own, *arms(*compared), "--seeds", "10"))
    for setting in SETTINGS[:2]:
        for loss in LOSSES:
            found[f"{setting}-{loss}"] = with_loss(setting, loss)
            found[f"{setting}-{loss}-labels-k8"] = with_loss(setting, loss, f"more-k8-{setting}", "sail-dpr")
    return found | parts() | elsewhere()


def elsewhere() -> dict[str, Study]:
    """Real reviews, and a real model; each recipe says which files it needs, and where from."""
    found = {}
    for name, compared in {
        "reviews": ("offline-02", "offline", "sail-dpr", "sail-dpr-c4", "iterative"),
        "reviews-against-offline": ("offline", "sail-dpr", "iterative"),
        "reviews-sail-dpr": ("sail-dpr", "sail-dpr-c4"),
        "smollm2": ("offline", "sail-dpr-k4", "sail-dpr-k4-c"),
    }.items():
        world = name.split("-")[0]
        words = (f"recipes/evidence/{world}.yaml", *arms(*compared), "--seeds", "3")
        found[name] = Study(world, words)
    return found


def with_loss(setting: str, loss: str, *compared: str) -> Study:
    """The same question with another loss than DPO's; of all arms but where some are named."""
    names = compared or ("offline", f"more-k8-{setting}", "sail-dpr", "iterative")
    words = (f"method.loss_type={loss}", LOSSES[loss], *arms(*names))
    return on_playground(setting, *words)._replace(folder=f"playground-{setting}-{loss}")


def pairs(setting: str) -> dict[str, tuple[str, ...]]:
    """Arms that are compared with another one than `offline`, the other one first."""
    terms = {name: (f"{name}-c0", name) for name in ("dpr", "ddp", "dpp", "mix", "revkl")}
    labels: dict[str, tuple[str, ...]] = {
        "labels-k8": (f"more-k8-{setting}", "sail-dpr"),
        "samples": ("iterative", "sail-dpr"),
    }
    labels["no-weight"] = ("offline-weight-0", "sail-dpr")
    labels |= {"kl-baseline": ("revkl", "revkl-b"), "revkl-b": ("offline", "revkl", "revkl-b")}
    labels["revkl-tuned"] = ("offline", "revkl-tuned")
    own = ("dpr", "mix", "dpp", "revkl")
    labels |= {"labels-k2": (f"more-k2-{setting}", "sail-dpr-k2", *own[:2])}
    labels |= {"samples-k2": ("iterative-k2", "sail-dpr-k2", *own)}
    labels |= {
        "against-offline": ("offline", "sail-dpr-k2", "ddp", "dpp"),
        "against-offline-02": ("offline-02", *own[:2], "revkl"),
        "against-02": ("offline-02", "sail-dpr"),
    }
    return {"costs": ("offline", "sail-dpr", "iterative"), "sail-dpr": ("sail-dpr", "sail-dpr-c"), **terms, **labels}


def parts() -> dict[str, Study]:
    """What each part of `sail-dpr` contributes, in the setting `few`; its own value is the first."""
    ours = f"preset={ARMS}/sail-dpr.yaml"
    axes = {
        "responses": "generate.num_generations=8,2,4,16",
        "kl": "method.kl.coefficient=0.05,0,0.02,0.1,0.2",
        "labels": "label.labels=sampled,soft,hard",
        "weights": "method.importance_weight_cap=null,2.0",
        "target": "method.kl.target=null,0.5,1.0,2.0,3.0",
        "beta": "method.beta=0.1,0.05,0.2,0.5",
    }
    found = {}
    for name, axis in axes.items():
        words = ("recipes/evidence/playground.yaml", ours, "--over", axis, "--seeds", "10")
        found[f"part-{name}"] = Study(f"part-{name}", words)
    losses = arms("sail-dpr", *(f"sail-dpr-{loss}" for loss in LOSSES))
    found["part-losses"] = Study("part-losses", ("recipes/evidence/playground.yaml", *losses, "--seeds", "10"))
    rounds = arms(*(f"rounds-{number}" for number in (6, 1, 3, 15, 30)))
    found["part-rounds"] = Study("part-rounds", ("recipes/evidence/rounds.yaml", *rounds, "--seeds", "10"))
    sweep = (*arms("offline", "sail-dpr", "iterative"), "--over", "method.kl.coefficient=0.02,0.05,0.1,0.2")
    found["sweep"] = Study("sweep", ("recipes/evidence/playground.yaml", *sweep, "--seeds", "10"))
    return found


def main() -> None:
    """Run what is not finished of the studies that are named, and keep what they say."""
    known = studies()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all, where none is named")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    strangers = [name for name in options.names if name not in known]
    if strangers:
        parser.error(f"there is no study {strangers[0]}")
    os.chdir(ROOT)
    for name in options.names or known:
        try:
            carry_out(name, known[name], options.jobs)
        except AlignError as error:
            sys.exit(f"{name}: {error}")


def carry_out(name: str, study: Study, jobs: int) -> None:
    """One study, and what it says."""
    folder = RUNS / study.folder
    copy_finished(study, folder)
    words = [*study.words, "-o", str(folder), "--jobs", str(jobs)]
    subprocess.run([sys.executable, "-c", "from align_cli.cli.main import main; main()", "study", *words], check=True)
    TABLES.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "tables.md", TABLES / f"{name}.md")
    worlds = (*SETTINGS, "reviews", "smollm2")
    if name in (*worlds, "sweep"):
        shutil.copy(folder / "frontier.svg", PICTURES / f"evidence-{name}.svg")
    if name in worlds:
        (TABLES / f"{name}-rounds.md").write_text(over_rounds(json.loads((folder / "results.json").read_text())))


def over_rounds(results: dict[str, Any]) -> str:
    """Tables of how runs went, from their study's results: each measure's mean over seeds by round, a line an arm."""
    tables = []
    for measure in results["measures"]:
        found: dict[str, dict[int, list[float]]] = {}
        for run in results["runs"]:
            for one in run["evaluations"]:
                found.setdefault(run["combination"], {}).setdefault(one["round"], []).append(one.get(measure, math.nan))
        rounds = sorted({number for by_round in found.values() for number in by_round})
        lines = [[name, *(f"{mean(by_round[number]):.3f}" for number in rounds)] for name, by_round in found.items()]
        tables.append(markdown(TextTable([measure, *(f"round {number}" for number in rounds)], lines)))
    return "\n\n".join(tables) + "\n"


def copy_finished(study: Study, path: Path) -> None:
    """Copy into a study's folder the runs of its own that other studies have finished.

    Raises:
        AlignError: for what `align study` refuses.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="+")
    parser.add_argument("--over", action="append", default=[])
    parser.add_argument("--seeds", default="10")
    told = parser.parse_args(study.words)
    recipe, *overrides = told.words
    seeds = parse_seeds(told.seeds, for_tuning=False)
    definition = define(Path(recipe), overrides, parse_axes(told.over), seeds, for_tuning=False)
    folder = StudyFolder(path)
    folder.check_usable(definition)
    with folder.locked():
        folder.write_definition(definition)
        places = [(run, folder.run(run)) for run in definition.runs]
        lacking = {key_of(definition.recipe_of(run, place)): place for run, place in places if not place.exists()}
        for other in sorted(RUNS.glob("*/runs/*/seed-*/recipe.yaml")) if lacking else ():
            place = lacking.get(key_of_run(other))
            if place is not None and not place.exists() and is_finished(made_by(other)):
                copied = path / "runs" / "copied"
                shutil.rmtree(copied, ignore_errors=True)
                shutil.copytree(other.parent, copied, ignore=shutil.ignore_patterns(".lock"))
                place.parent.mkdir(parents=True, exist_ok=True)
                copied.rename(place)


def made_by(recipe: Path) -> Recipe:
    """The recipe of a run, where the run lies."""
    return load_recipe(recipe, [f"output_dir={json.dumps(str(recipe.parent))}"])


@cache
def key_of_run(recipe: Path) -> str:
    """The key of a run that lies there; empty where it cannot be read, or other code has made it."""
    try:
        return key_of(made_by(recipe))
    except AlignError:
        return ""


def key_of(recipe: Recipe) -> str:
    """What two runs have in common that end in the same bytes."""
    return json.dumps({**resolved(recipe), "output_dir": ""}, sort_keys=True, default=str)


if __name__ == "__main__":
    main()
