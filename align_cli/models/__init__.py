"""Models: load, tokenise, score. What engines, labelers and training share. Imports torch and transformers late."""
