"""Which samples the rows of a tensor are, which of them count, and which are kept (the design's section 4).

In come a tensor's sizes and the forward. Out go the sequence that the layer works on with its mask
(`sequences`), whether the call is on data at all (`no_data`), the number of each sample (`sample_numbers`),
what counts and what is kept (`selection`), and all of it at once for the next such tensors (`plan_cache`).
"""
