"""The built-in worlds: data and models made on the spot, so that everything runs with nothing downloaded.

`grammar` writes short reviews, `reward` knows their true worth, `world` makes prompts, an SFT corpus and noisy
preferences of them, `reviews` does the same from two files of real sentences, and `model` makes small models from
scratch. A world only yields plain rows and folders written by `save_pretrained`: no stage can tell it from other data.
Nothing here imports torch, transformers or scikit-learn until a function that needs them is called.
"""

from align_cli.playground.reward import hidden_reward

__all__ = ["hidden_reward"]
