"""Layers of kinds that are measured on request: convolutions, activations, embeddings, attention, blocks.

`by_class` tells the first four by what their classes are; `blocks` finds the blocks of a residual stream as
the entries of the lists that a model repeats; `select` makes layers of those that were asked for.
"""
