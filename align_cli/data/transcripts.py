"""Conversations as one text, as hh-rlhf has them: `\\n\\nHuman: ...\\n\\nAssistant: ...`, turn by turn."""

from __future__ import annotations

import re

from align_cli.data.messages import Message, assistant_message, user_message

REPLY_MARKER = "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")


def transcript_turns(text: str) -> list[Message]:
    """The turns of a transcript, without the white space around each; none for a text that is no transcript.

    A transcript begins with a turn of the user's; a turn of the assistant's that is open at its end is left out.
    """
    before, *parts = TURN.split(text)
    if before.strip() or parts[:1] != ["Human"] or not text.startswith("\n\n"):
        return []
    said = zip(parts[::2], parts[1::2], strict=True)
    turns = [(user_message if who == "Human" else assistant_message)(words.strip()) for who, words in said]
    is_open = turns[-1] == assistant_message("")
    return turns[:-1] if is_open else turns
