"""A recipe to begin with, out of five answers: what `align init` writes.

answers     what can be answered: model, data, label source, hardware, method; and what goes without an answer
looked      what the data holds, in the model's tokens where they can be had
methods     what a preset needs, read off its own keys, and what of it the data can give
labels      the labelers of a recipe: who labels responses, and who judges the result
sizes       what fits the model and the hardware
written     all of it as a recipe's text; recipe.yaml.jinja is its form
Asks nobody, prints nothing, and checks no recipe: `recipe` does.
"""
