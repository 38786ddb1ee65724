"""Batches of the user's, and a model run over them, for `record`, `recalibrate` and `compare_live`.

In come a model and batches as loaders give them. Out go calls of the model: `batch_arguments` says how a
batch is given to a forward and what of it is left out, `run_batches` calls it in the modes asked for and
puts them back, `progress_bar` shows how far that is.
"""
