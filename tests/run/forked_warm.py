"""Imported once by the server that `forked` forks children from: whatever is slow to import, and nothing that computes.

A process that has never computed has no threads of its own, so its children may do whatever they like.
"""

import pytest  # noqa: F401  (the children look at the script that pytest was started with)
import transformers.models.llama.modeling_llama  # noqa: F401

import align_cli.cli.main
import align_cli.engines.in_process
import align_cli.run.rounds
import align_cli.run.single
import align_cli.training.sft
import align_cli.training.trainer  # noqa: F401
