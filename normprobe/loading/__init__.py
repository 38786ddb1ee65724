"""From what a person names on the command line to a model and batches that fit it.

In come strings: the name of a model (`models.load_model`), the name of data (`inputs.load_inputs`). Out go
a `LoadedModel` in evaluation mode on its device, and `Inputs`, which make batches of keyword arguments or
tensors for its forward. Whatever a user can mend is a `ModelError` or `DataError` of one line.

Nothing that comes with a file is run: pickles are refused or read as plain tensors, code of a checkpoint only
with ``trust_remote_code``. Code that the user names (``module.py:callable``) is the user's own.
"""
