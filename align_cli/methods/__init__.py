"""The method as pure tensor functions: log-probabilities, preference losses, the bilevel terms, KL.

They take tensors and floats and return per-example tensors; the caller reduces. No files, no clock, no logger, no
globals, no hidden randomness. Every stop-gradient is a visible `detach()`.
"""
