"""What a wheel holds besides the code: the recipes and the tested versions, which lie at the top of a checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).parent


class BuildWithRecipes(build_py):
    """Puts copies beside the code, where `align_cli/recipe/shipped.py` looks; editable installs read the originals."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "align_cli" / "shipped"
        shutil.rmtree(folder, ignore_errors=True)  # of a build before this one
        folder.mkdir(parents=True)
        for file in [*sorted((TOP / "recipes").glob("*.yaml")), TOP / "constraints.txt"]:
            shutil.copyfile(file, folder / file.name)


setup(cmdclass={"build_py": BuildWithRecipes})
