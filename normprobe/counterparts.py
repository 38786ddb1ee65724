"""The path under which pickled models name the norms that `swap_norms` put into them, in every version.

normprobe 0.1 defined the classes here. They live in `normprobe.layers.norms.replacements` now and keep this
path as their ``__module__``, so a model saved by any version loads in any other that has the class.
"""

from normprobe.layers.norms.replacements import (
    ChannelBatchNorm,
    ChannelLayerNorm,
    ChannelRMSNorm,
    FeatureBatchNorm,
    FeatureGroupNorm,
    FeatureRMSNorm,
)

__all__ = [
    "ChannelBatchNorm",
    "ChannelLayerNorm",
    "ChannelRMSNorm",
    "FeatureBatchNorm",
    "FeatureGroupNorm",
    "FeatureRMSNorm",
]
