"""What carries recordings into training loops and trackers; each file is imported when it is used.

`metrics` has numbers and histograms for any tracker. `transformers` and `lightning` have a callback for the
trainer of that library, which share `training_run`; `trackers` writes where no trainer does.
"""
