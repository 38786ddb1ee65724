"""What is probed: the Linears and norms of a model, and how their tensors read.

In comes a module tree; nothing here runs it. Out goes a `LayerSet` (`find.find_layers`): each layer with its
names and its `View`, which says how a tensor there reads as rows x features (`to_rows.arrange`).

- `entry_rule`: the rule of entry, what counts as a Linear or a norm; `kind_by_name`, what a class name says.
- `view_registry`: the layer types that are known, torch's and those of `register_view`.
- `parameter_layers`: layers that are parameters of a module and are used through functions.
- `further_layers`: layers of kinds that are asked for; `further_kinds`, which modules these are; `blocks`,
  which modules are the blocks of a residual stream.
- `norms`: what a norm's first call shows of it, and swapping norms (`swap_norms`).
"""
