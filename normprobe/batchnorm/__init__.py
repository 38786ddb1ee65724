"""BatchNorm: its running statistics held against the data, and collected anew.

In: a recording (`audit`, `channels`, `score`), or a model and batches (`recalibrate`). Out: frames by layer
or channel, a number, or the model with new running statistics. Distances are those of
`normprobe.tables.measures.running_statistics`, which findings and figures show as well.

>>> recording = normprobe.record(model, batches)
>>> normprobe.batchnorm.audit(recording)      # a row per batch norm
>>> normprobe.batchnorm.score(recording)      # one number for the model
>>> normprobe.batchnorm.recalibrate(model, batches)
"""

from normprobe.batchnorm.audit_tables import audit, channels, score
from normprobe.batchnorm.recalibration import recalibrate

__all__ = ["audit", "channels", "recalibrate", "score"]


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
