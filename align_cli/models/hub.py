"""A model's folder on the Hub: is it in the cache here, may this machine upload it, and the upload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align_cli.errors import AlignError, first_line

REPLACED = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "generation_config.json")
"""Files of a model that must not outlive another one's upload into the same repository."""

NO_TOKEN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write (huggingface.co/settings/tokens)"


def is_cached(name: str) -> bool:
    """Whether the Hub's cache on this machine has a model.

    Raises:
        HFValidationError: if the name is no id of the Hub's.
    """
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def check_may_push(repository: str) -> None:
    """Ask who this machine is to the Hub, before anything is written.

    Raises:
        AlignError: if the id is none, nobody is logged in, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    with faults_of_the_hub(repository):
        validate_repo_id(repository)
        HfApi().whoami()


def push_folder(folder: Path, repository: str, *, public: bool, message: str) -> str:
    """Upload a model's folder in one commit, in the place of the model that the repository held.

    Args:
        folder: what is uploaded.
        repository: its id; made where it is not there.
        public: whether everybody sees a repository that is made now; one that is there stays as it is.
        message: of the commit.

    Returns:
        The repository's address.

    Raises:
        AlignError: if the Hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    with faults_of_the_hub(repository):
        made = HfApi().create_repo(repository, private=not public, exist_ok=True)
        HfApi().upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message=message, delete_patterns=list(REPLACED)
        )
    return str(made)


@contextmanager
def faults_of_the_hub(repository: str) -> Iterator[None]:
    """Whatever the Hub, its library and the network say, in our words.

    Raises:
        AlignError: for any of that.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # of whichever library it speaks HTTP with
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except HFValidationError as error:
        what, hint = f"this is no id of the Hub: {first_line(error)}", "give one such as your-name/your-model"
    except LocalTokenNotFoundError:
        what, hint = "nobody is logged in to the Hub on this machine", NO_TOKEN
    except OfflineModeIsEnabled:
        what, hint = "HF_HUB_OFFLINE is set, and the Hub is asked for nothing", "unset it to upload"
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        what = f"the Hub refuses it: {error.server_message or first_line(error)}"
        hint = NO_TOKEN if status in (401, 403) else "see whether the id is right, and whether the Hub is well"
    except (HTTPError, OSError) as error:
        what = f"the Hub cannot be reached: {first_line(error) or type(error).__name__}"
        hint = "look at the network, at proxies and at HF_ENDPOINT"
    else:
        return
    raise AlignError(what, where=repository, hint=hint)
