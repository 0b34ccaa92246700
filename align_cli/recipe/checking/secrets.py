"""No secret stands in a recipe: it is copied into the run's folder, and shown by `align check`.

Names the key, never its value.
"""

from __future__ import annotations

from collections.abc import Iterator

from align_cli.recipe.checking.view import RuleFault, View
from align_cli.recipe.written.tree import KeyPath, dotted
from align_cli.secret_forms import holds_token, is_secret, is_secret_name


def no_secrets(view: View) -> Iterator[RuleFault]:
    """Arguments of labelers and bodies of requests with a secret's name, and texts anywhere that look like a token."""
    for path, value in view.leaves():
        names = [part for part in path[3:] if isinstance(part, str)]
        is_argument = path[0] == "labelers" and path[2:3] in (("arguments",), ("extra_body",))
        is_argument |= path[:3] == ("generate", "server", "extra_body")
        is_named = is_argument and any(map(is_secret_name, names)) and _may_be_secret(value)
        is_like_one = isinstance(value, str) and (
            holds_token(value) or (is_argument and any(is_secret(name, value) for name in names))
        )
        if is_named or is_like_one:
            what = f"{dotted(path)} looks like a secret; a recipe is copied into the run's folder and shown"
            yield RuleFault(path, what, _remedy(path), at_key=True)


def _may_be_secret(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


def _remedy(path: KeyPath) -> str:
    if path[2:3] in (("extra_body",), ("api_key_env",)):
        return "name the environment variable that holds it: api_key_env"
    if path[0] != "labelers":
        return "take it out; a token of Hugging Face's is read from the environment: HF_TOKEN"
    names = [part for part in path[3:] if isinstance(part, str) and part.isidentifier() and is_secret_name(part)]
    variable = names[-1].upper() if names else "MY_KEY"
    return f'read it from the environment in your function: os.environ["{variable}"]'
