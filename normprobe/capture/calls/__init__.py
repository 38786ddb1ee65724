"""One call of a layer: which of its tensors are its input and its output, and what a norm's call shows.

In come the arguments and the result of a call. Out go the tensors to measure, by the form of the call
(`readings`, from what `call_tensors` finds in it), and what is said of a norm in its ledger row
(`norm_facts`). `buffer_changes` tells whether running statistics moved, `branches` what a block added.
"""
