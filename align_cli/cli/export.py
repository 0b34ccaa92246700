"""`align export`: a round's policy in a folder of its own, for transformers, servers and the Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from align_cli.cli.options import AsJson, Quiet, RoundName, RunFolderPath
from align_cli.cli.output import Output, guarded
from align_cli.errors import AlignError


@guarded
def command(
    run: RunFolderPath,
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The new folder.", show_default=False)],
    which: RoundName = None,
    merge: Annotated[bool, typer.Option("--merge", help="Put a LoRA adapter into its base: one whole model.")] = False,
    repository: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="ID", help="Upload the folder too, as NAME/MODEL.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push-to-hub: a new repository is for everybody, not private.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a round's policy with tokenizer, way of sampling and model card, as plain transformers loads it."""
    from align_cli.models.hub import check_may_push, push_folder
    from align_cli.run.chosen import choose_round, open_run
    from align_cli.run.export import check_pushable, check_target, export_round

    talk = Output(quiet=quiet, as_json=as_json)
    if public and repository is None:
        raise typer.BadParameter("--public goes with --push-to-hub")
    check_target(target)
    results = open_run(run)
    if repository is not None:
        check_pushable(results.recipe, merge=merge)
        check_may_push(repository)
    chosen = choose_round(results, which)
    for remark in chosen.remarks:
        talk.warn(remark)
    exported = export_round(results, chosen, target, merge=merge, repository=repository, note=talk.note)
    address = None
    if repository is not None:
        message = f"Round {chosen.round}, exported by align"
        try:
            address = push_folder(target, repository, public=public, message=message)
        except AlignError as error:
            fault, again = error.faults[0], f"`hf upload {repository} {shlex.quote(str(target))}`"
            hint = f"{fault.hint}; {target} is written, and {again} uploads it"
            raise AlignError(fault.what, where=fault.where, hint=hint) from None
        talk.note(f"uploaded to {address}")
    written = {"path": str(target), "round": exported.round, "kind": exported.kind, "base": exported.base}
    if as_json:
        talk.data({**written, "why": chosen.why, "hub": address})
    else:
        talk.text(str(target))
