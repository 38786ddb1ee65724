"""What carries recordings into training loops and trackers; each file is imported when it is used.

In: the windows of a training. Out: numbers and histograms under stable names. `metrics` makes these, for any
tracker. `transformers` and `lightning` have a callback for the trainer of that library, which share
`callback_options` and `training_run`; `trackers` writes where a trainer has no loggers for its callbacks.
"""
