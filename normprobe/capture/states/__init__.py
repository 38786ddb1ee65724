"""What a probe holds of each layer and each of its sites, from the first call to the record.

In come, call by call, what was decided of a tensor and its sums. Out goes a `tables.records.LayerRecord`
(`layer_state`) with a `SiteRecord` for each site (`site_state`) and a `GroupRecord` for each group of samples
(`group_state`). `counters` is what hooks read and write at every call, those of the extension among them;
`site_registry` has sites beside input and output. `settling` says what a call shows of how a
layer is read, `block_chains` what those of several blocks show together.
"""
