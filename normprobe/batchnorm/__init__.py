"""BatchNorm's running statistics held against the data: how far off they are, and how to collect them anew.

>>> recording = normprobe.record(model, batches)
>>> normprobe.batchnorm.audit(recording)      # a row per batch norm
>>> normprobe.batchnorm.score(recording)      # one number for the model
>>> normprobe.batchnorm.recalibrate(model, batches)
"""

from normprobe.batchnorm.distances import audit, channels, score
from normprobe.batchnorm.recalibration import recalibrate

__all__ = ["audit", "channels", "recalibrate", "score"]
