"""The weights of a policy in a folder that servers read: whole, or an adapter alone; written once a version.

The folder lies in the run's own, so that servers on other machines which see that see it too. It goes when the stage
is over, and with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from align_cli.artifacts.files import remove
from align_cli.artifacts.scratch import ScratchFolder
from align_cli.models.load import GENERATION_CONFIG
from align_cli.models.portable import make_portable

if TYPE_CHECKING:
    from align_cli.models.load import Policy
    from align_cli.recipe.sections.policy import PolicySection


class WeightFolders:
    """Where weights are put for servers.

    Args:
        settings: `policy` of the recipe.
        place: the run's folder for them; None where there is no run.
    """

    def __init__(self, settings: PolicySection, place: Callable[[], Path | None]) -> None:
        self._settings, self._place = settings, place
        self._scratch: ScratchFolder | None = None
        self._written: dict[str, Path] = {}

    @property
    def logs(self) -> Path:
        """The folder of servers' logs."""
        return self._place() or self._root()

    def whole(self, policy: Policy) -> Path:
        """A folder with all weights, an adapter's added to its base's; those of another version go."""
        return self._made(policy, "whole")

    def adapter(self, policy: Policy) -> Path:
        """A folder with the adapter alone, as peft has it."""
        return self._made(policy, "adapter")

    def clear(self) -> None:
        """Nobody reads them any more."""
        self._written = {}
        if self._scratch is not None:
            self._scratch.__exit__(None, None, None)
            self._scratch = None

    def _made(self, policy: Policy, kind: str) -> Path:
        name = f"{kind}-{policy.version.replace('/', '--')}"
        if name not in self._written:
            for old in [old for old in self._written if old.startswith(kind)]:
                remove(self._written.pop(old))
            folder = self._root() / name
            folder.mkdir()
            self._write(policy, folder, kind)
            self._written[name] = folder
        return self._written[name]

    def _write(self, policy: Policy, folder: Path, kind: str) -> None:
        policy.save_weights(folder)
        policy.tokenizer.save_pretrained(folder)
        make_portable(folder, self._settings, merge=kind == "whole")
        if kind == "whole":
            _write_ends(policy, folder)

    def _root(self) -> Path:
        if self._scratch is None:
            within = self._place() or Path(tempfile.gettempdir())
            within.mkdir(parents=True, exist_ok=True)
            self._scratch = ScratchFolder(within)
        return self._scratch.path.resolve()


def _write_ends(policy: Policy, folder: Path) -> None:
    """Servers that know no stop_token_ids end responses where the policy's do."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=True,
        eos_token_id=policy.eos_token_ids,
        pad_token_id=policy.tokenizer.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
    )
    (folder / GENERATION_CONFIG).unlink(missing_ok=True)
    config.save_pretrained(folder)
