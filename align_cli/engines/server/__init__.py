"""The engine `server`: any server like OpenAI's generates, attached or started by align.

engine         one stage's responses: what is asked, and what came
fleet          the servers, and how they get a policy's weights; folders.py writes them
capabilities   what a server is and can do
places         one queue of requests for all servers
answers        what is sent, and what an answer says
review         are responses what was asked for?
"""

from __future__ import annotations

from align_cli.engines.server.engine import ServerEngine

__all__ = ["ServerEngine"]
