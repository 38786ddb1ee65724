"""The check of what fp16 can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.formatting import format_number
from normprobe.tables.measures.common import row_of
from normprobe.tables.measures.layers import inputs_and_outputs

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class Fp16Overflow(Check):
    """Values leave, or are about to leave, the range of fp16, whose largest number is 65,504.

    In fp32 and bf16 such values are fine; cast to fp16 they become Inf, and the next norm makes NaN of them.
    Layers that run in 16 bit, and models whose configuration says that they are meant to, are warned of from
    half that limit on.

    What to do: run in bf16 or fp32, or keep the named layer in fp32.

    Figure: the largest |value| before the norm, where the limit of fp16 is drawn.
    Source: IEEE 754-2019, binary16.
    When it is wrong: a model that will never run in fp16.

    Attributes:
        limit: largest |value| that fp16 holds.
        margin: a model that runs in, or is meant for, 16 bit is warned of above ``limit / margin``.
    """

    name: ClassVar[str] = "fp16_overflow"
    title: ClassVar[str] = "Values beyond the range of fp16"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Run in bf16 or fp32, or keep this layer in fp32."
    source: ClassVar[str] = "IEEE 754-2019 binary16"
    rule: ClassVar[str] = (
        "A |value| above {limit}, the largest that fp16 holds; above {limit} ÷ {margin} where the model "
        "runs in 16 bit or is meant to."
    )

    limit: float = 65504.0
    margin: float = 2.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first layer in order of execution with a value beyond the limit."""
        layers = inputs_and_outputs(tables)
        # A model may be measured in float32 and still be meant for 16 bit.
        meant = "float16" in str(tables.meta.get("meant_dtype"))
        half = layers["dtype"].str.contains("float16") | meant
        limit = pd.Series(self.limit, index=layers.index).where(~half, self.limit / self.margin)
        beyond = layers[layers["abs_max"] > limit]
        if beyond.empty:
            return []
        layer, site = beyond.index[0]
        row = row_of(beyond, layer, site)
        affected = tuple(dict.fromkeys(beyond.index.get_level_values("layer")))
        lost = int(row["nonfinite"])
        further = f", and {format_number(lost)} further values there are NaN or Inf" if lost else ""
        return [
            Finding(
                layer=layer,
                site=site,
                feature=row["abs_max_feature"],
                example=row["abs_max_example"],
                position=row["abs_max_position"],
                statistic="largest |value|",
                value=row["abs_max"],
                threshold=limit[(layer, site)],
                message=f"The {site} reaches {format_number(row['abs_max'])}{further}; "
                f"fp16 ends at {format_number(self.limit)}.",
                evidence=f"{site}:abs_max",
                affected=affected,
            )
        ]
