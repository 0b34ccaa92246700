"""Metrics: pure functions on plain numbers and strings.

A metric takes sequences and gives a number or a NamedTuple of numbers. It never reads a file, never touches a model and
keeps no state; where chance enters (the bootstrap), the caller hands in the seed. Stages and reports call them.
"""
