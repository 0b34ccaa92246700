"""Imported once by the server that `forked` forks children from: whatever is slow to import, and nothing that computes.

A process that has never computed has no threads of its own, so its children may do whatever they like.
"""

import gc
import threading

import openai.resources.chat  # noqa: F401  (which children import that ask a server)
import pytest  # noqa: F401  (children look at the script that pytest was started with)
import tqdm
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import align_cli.cli.main
import align_cli.engines.decoding
import align_cli.engines.in_process
import align_cli.run.loop
import align_cli.run.single
import align_cli.training.sft
import align_cli.training.trainer  # noqa: F401

get_checkpoint_conversion_mapping("llama")  # hundreds of patterns, which each child would compile for its first model

gc.collect()
gc.freeze()  # in no child anything of this is garbage, and none has to look through it

# A lock between processes would outlive a child that is killed.
tqdm.tqdm.set_lock(threading.RLock())
