"""align: iterative, online preference alignment of language models, from one command."""

__version__ = "0.1.0"
