"""Whether what layers read and write fits a format of few bits, and what scales of other grain would buy.

In: tables of a recording, and the name of a format (`formats`). Out: a row per layer and site, or per feature
(`fit`): room, overflow and underflow, scales and the noise of rounding. `rounding` rounds as a cast does,
`noise` estimates its noise from what was recorded: counts in bins, the moments of features, kept rows.
`recorded` is what a recording shows of it, and of how values are distributed.
"""
