"""Experts that one weight holds: which rows went to which, and what each of them read and gave.

In comes each call of a module that holds experts (`layers.layer.ExpertModule`) and each product with one of
its weights. `routing` reads from the arguments which token goes to which expert; `products` finds the rows of
a product, and `row_order` says which tokens these are. `expert_capture` measures the rows of each expert,
`expert_sums` adds them up on their device, `expert_state` holds them for a window. Out goes a
`tables.records.ExpertRecord` of each module.

Experts that are modules of a list need none of this: their layers are measured as any others are.
"""
