"""The sections of a recipe, one file each: a key's type, range, default and description, and what is asked of it.

A section's file holds its models, whose descriptions are the documentation that users see; `RULES`, what its keys ask
of others; `FILE_RULES`, those that look at the disk; `WARNINGS`, what is allowed but often not meant; and the values
that align sets where its keys are unset. A rule stands where the key is that it points to. `recipe.py` puts the
sections together, `rules.py` their rules. No torch.

Labelers, engines and sources register in one table each: `labelers.LABELER_KINDS`, `generate.ENGINES` and
`sources.SOURCES`.
"""
