"""The place where models saved by normprobe 0.1 look for the norms that `swap_norms` put into them."""

from normprobe.layers.norms.replacements import *  # noqa: F403
