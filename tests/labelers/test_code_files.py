"""Which files a labeler's code stands in, found without importing any of them."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from align_cli.labelers.code_files import code_files


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**files: str) -> None:
    """Files by name, with `_X_` for a slash."""
    for name, text in files.items():
        path = Path(name.replace("_X_", "/")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def names_of(place: str) -> dict[str, str]:
    return {name: file.resolve().relative_to(Path.cwd()).as_posix() for name, file in code_files(place).items()}


def test_modules_beside_a_file_and_all_that_they_import_are_found() -> None:
    write(
        labeler="import json, torch\nimport words\n\ndef score(**_):\n    from tools import lengths\n",
        words="raise RuntimeError('this is never run')\nfrom tools.deep.er import this\n",
        tools_X_lengths="",
        tools_X_deep_X_er="import words, labeler\n",
        other="",
    )
    assert names_of("labeler.py:score") == {
        "": "labeler.py",
        "labeler": "labeler.py",
        "tools.deep.er": "tools/deep/er.py",
        "tools.lengths": "tools/lengths.py",
        "words": "words.py",
    }
    assert "words" not in sys.modules


def test_files_of_the_same_name_in_another_current_folder_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    write(labeler="import words\n", words="", elsewhere_X_labeler="import words\n", elsewhere_X_words="")
    first = code_files("labeler.py:score")["words"]
    monkeypatch.chdir("elsewhere")
    assert code_files("labeler.py:score")["words"] == first.parent / "elsewhere" / "words.py"


def test_what_stands_beside_a_file_in_another_folder_is_found() -> None:
    write(deep_X_labeler="import beside, above\n", deep_X_beside="", above="")
    assert names_of("deep/labeler.py:score") == {"": "deep/labeler.py", "above": "above.py", "beside": "deep/beside.py"}


def test_a_modules_packages_and_its_relatives_are_found() -> None:
    imports = "from . import inner\nfrom .. import words\nfrom ..words import x\n"
    write(
        rewards_X___init__="",
        rewards_X_lengths_X___init__=imports,
        rewards_X_lengths_X_inner="from .beside import y\n",
        rewards_X_lengths_X_beside="",
        rewards_X_words="",
    )
    assert names_of("rewards.lengths:score") == {
        "": "rewards/lengths/__init__.py",
        "rewards": "rewards/__init__.py",
        "rewards.lengths.beside": "rewards/lengths/beside.py",
        "rewards.lengths.inner": "rewards/lengths/inner.py",
        "rewards.words": "rewards/words.py",
    }


def test_a_modules_packages_are_found_though_nothing_imports_them() -> None:
    write(rewards_X___init__="import words\n", rewards_X_lengths="", words="")
    assert names_of("rewards.lengths:score") == {
        "": "rewards/lengths.py",
        "rewards": "rewards/__init__.py",
        "words": "words.py",
    }


def test_a_package_that_is_imported_imports_from_beside_its_own_files() -> None:
    write(
        labeler="import tools\n",
        tools_X___init__="from . import inner\nfrom .deep import er\n",
        tools_X_inner="",
        tools_X_deep_X___init__="from .. import other\n",
        tools_X_deep_X_er="",
        tools_X_other="",
        inner="",
        other="",
    )
    assert list(names_of("labeler.py:score")) == [
        "",
        "tools",
        "tools.deep",
        "tools.deep.er",
        "tools.inner",
        "tools.other",
    ]


def test_all_that_one_file_imports_is_found_in_the_order_of_names() -> None:
    write(labeler="import d, b\nimport e\nfrom a import x\nfrom c import y\n", a="", b="", c="", d="", e="")
    assert list(names_of("labeler.py:score")) == ["", "a", "b", "c", "d", "e"]


def test_what_stands_beside_a_file_comes_before_what_stands_in_the_current_folder() -> None:
    write(deep_X_labeler="import words\n", deep_X_words="", words="")
    assert names_of("deep/labeler.py:score")["words"] == "deep/words.py"


def test_a_compiled_module_counts_too() -> None:
    write(labeler="import fast\n")
    Path("fast").with_suffix(EXTENSION_SUFFIXES[0]).write_bytes(b"\x7fELF\0")
    assert names_of("labeler.py:score") == {"": "labeler.py", "fast": f"fast{EXTENSION_SUFFIXES[0]}"}


def test_a_process_goes_on_with_the_files_that_it_found_first() -> None:
    write(labeler="import words\n", words="", others="")
    first = names_of("labeler.py:score")
    write(labeler="import words, others\n")
    assert names_of("labeler.py:score") == first


def test_a_module_deep_in_folders_without_init_files_is_found() -> None:
    write(one_X_two_X_three="from one.two import four\n", one_X_two_X_four="")
    assert names_of("one.two.three:score") == {"": "one/two/three.py", "one.two.four": "one/two/four.py"}


@pytest.mark.parametrize("text", ["def score(:", "\0", "import no_such_module.at_all\n", "from . import x\n", "é"])
def test_a_file_that_cannot_be_read_or_imports_what_is_not_there_is_found_itself(text: str) -> None:
    write(labeler=text)
    assert names_of("labeler.py:score") == {"": "labeler.py"}


def test_installed_code_is_known_by_its_version() -> None:
    import json

    write(codecs="", labeler="import json, pytest, align_cli.playground\nfrom align_cli import playground\n")
    assert names_of("labeler.py:score") == {"": "labeler.py"}
    assert code_files("json:loads") == {"": Path(json.__file__)}
    assert code_files("align_cli.playground:hidden_reward") == {}
    assert code_files("no_such_module:score") == {}


def test_folders_that_code_adds_later_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found before a labeler is imported is found afterwards, in the next process too."""
    write(labeler="import elsewhere\n", added_X_elsewhere="")
    monkeypatch.setattr(sys, "path", [str(Path("added").resolve()), *sys.path])
    assert names_of("labeler.py:score") == {"": "labeler.py"}
