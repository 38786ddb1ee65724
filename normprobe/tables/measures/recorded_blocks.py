"""The tables of layers of further kinds, which follow from the others."""

from __future__ import annotations

import pandas as pd

from normprobe.tables.frames import Tables
from normprobe.tables.measures.attention import attention_table
from normprobe.tables.measures.residual import branch_table


class RecordedBlocks:
    """What a recording says of blocks and attention, where a probe was asked for them."""

    _tables: Tables

    @property
    def branches(self) -> pd.DataFrame:
        """A row per block of the residual stream: variances of the stream and of what the block adds to it.

        Measured by ``Probe(model, residual=True)``; without that there are no rows. In a post-norm model
        (BERT) a block's output is normalized, and what it adds is output - input all the same.
        """
        return branch_table(self._tables)

    @property
    def attention(self) -> pd.DataFrame:
        """A row per attention layer and head: largest logit, and mean entropy of the weights in nats.

        Measured by ``Probe(model, kinds=("default", "attention"))`` where the implementation computes its
        weights (eager); the ledger says why there are no rows of others.
        """
        return attention_table(self._tables)

    def _block_frames(self) -> dict[str, pd.DataFrame]:
        """Those of these tables that have rows, by name."""
        frames = {"branches": self.branches, "attention": self.attention}
        return {name: frame for name, frame in frames.items() if len(frame)}
