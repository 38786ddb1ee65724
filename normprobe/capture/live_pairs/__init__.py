"""Two models side by side on the same batches, for `compare_live`.

In come two models and batches. Out go the errors between their layers' tensors: `side_by_side` runs both
and pairs what their hooks see, `power_sums` adds the differences up.
"""
