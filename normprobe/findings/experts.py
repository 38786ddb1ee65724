"""Checks of experts: one that no token reaches, and layers that see too few rows to calibrate on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.wording import same_at
from normprobe.formatting import format_count, format_number
from normprobe.vocabulary import INPUT, INTERMEDIATE

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_SHOWN = 4
"""How many experts a message names."""


@dataclass(frozen=True, kw_only=True)
class DeadExpert(Check):
    """No token reached an expert, though there were enough for a router that favours none.

    Of n experts such a router gives each one n-th of a layer's tokens; that one gets none where it should
    have had t has a probability of exp(-t). In training an expert without tokens gets no gradient, so it
    stays as it is, and its parameters are of no use.

    What to do: in training, raise the weight of the loss that balances the load, or let the router's bias do
    it; before a quantizer is calibrated, take more data, or data of more sorts.

    Figure: none; ``recording.experts`` has the tokens of each expert, and the report a table of them.
    Source: Shazeer et al., arXiv:1701.06538, section 4; Fedus, Zoph, Shazeer, arXiv:2101.03961, 2.2.
    When it is wrong: data of one sort, as experts of a trained model specialize; so outside training it is
    but a note.

    Attributes:
        expected: least number of tokens that each expert would have had from a router that favours none.
    """

    name: ClassVar[str] = "dead_expert"
    title: ClassVar[str] = "Expert without a token"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Balance the router in training, or take more data, of more sorts."
    source: ClassVar[str] = "arXiv:1701.06538, section 4; arXiv:2101.03961, section 2.2"
    rule: ClassVar[str] = (
        "An expert has no token where a router that favours none would have given each at least {expected}."
    )

    expected: float = 32.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """One finding at the layer with most such experts; those of other layers are affected, too."""
        read = tables.experts[tables.experts["site"] == INPUT]
        dead = {
            str(layer): of[of["tokens"] == 0]["expert"].tolist()
            for layer, of in read.groupby("layer", sort=False)
            if of["tokens"].sum() >= self.expected * len(of)
        }
        dead = {layer: experts for layer, experts in dead.items() if experts}
        if not dead:
            return []
        # Of equal ones the first in order of execution, as max keeps it.
        worst = max(dead, key=lambda layer: len(dead[layer]))
        of = read[read["layer"] == worst]
        named = ", ".join(map(str, dead[worst][:_SHOWN]))
        more = f" and {len(dead[worst]) - _SHOWN} more" if len(dead[worst]) > _SHOWN else ""
        total, trained = int(of["tokens"].sum()), "train" in tables.facts.get("training", ())
        affected = tuple(
            _place(tables, layer) for layer in (worst, *(other for other in dead if other != worst))
        )
        return [
            Finding(
                layer=affected[0],
                site=INPUT,
                statistic="experts without a token",
                value=len(dead[worst]),
                threshold=0,
                message=f"{format_count(len(dead[worst]), 'expert')} of {len(of)} ({named}{more}) had none "
                f"of {total:,} tokens{same_at(len(dead), 'layer')}.",
                evidence=f"{INPUT}:n_samples",
                affected=affected,
                severity="warning" if trained else "info",
            )
        ]


@dataclass(frozen=True, kw_only=True)
class TooFewTokens(Check):
    """The data are enough to calibrate most Linear layers on, but not one that reads only a part of them.

    GPTQ inverts the matrix X Xᵀ of what a layer reads, which has no inverse where there are fewer rows than
    features: only what is added to its diagonal then decides about the directions that no row shows. An
    expert reads the tokens that were routed to it alone. Where the recording itself has no more rows than the
    layer has features nothing is reported: so short a run is a look, and no calibration.

    What to do: take more data until every expert has as many tokens as features, or let the quantizer round
    those layers to the nearest value.

    Figure: none; ``recording.experts`` and the ledger have the rows of each expert and each layer.
    Source: Frantar et al., arXiv:2210.17323, section 3.
    When it is wrong: nothing is calibrated on these data. Heads and poolers, which read one row of each
    example, are left out.

    Attributes:
        share: the rows of a layer are few if they are at most this share of the median Linear's.
    """

    name: ClassVar[str] = "too_few_tokens"
    title: ClassVar[str] = "Too few tokens to calibrate on"
    severity: ClassVar[Severity] = "info"
    advice: ClassVar[str] = "Calibrate on more data, or leave these layers to rounding."
    source: ClassVar[str] = "arXiv:2210.17323, section 3"
    matters: ClassVar[str] = "if you calibrate a quantizer on these data"
    rule: ClassVar[str] = (
        "A Linear or an expert has fewer rows than features, and at most {share:%} of the rows of the median "
        "Linear, which has more rows than that."
    )

    share: float = 0.5

    def __call__(self, tables: Tables) -> list[Finding]:
        """One finding at the layer with fewest rows for its features."""
        layers = tables.layers
        linear = layers[(layers["kind"] == "linear") & (layers["site"] == INPUT)]
        examples = tables.facts.get("examples") or 0
        # Heads and poolers read one row of each example, however long the data are.
        linear = linear[linear["n_samples"] > examples]
        if linear.empty:
            return []
        median = float(linear["n_samples"].median())
        experts = _of_experts(tables)
        rows = _of_layers(linear)
        # Before pandas 3 an empty frame has a say in the dtypes of what it is joined to.
        rows = rows if experts.empty else pd.concat([rows, experts], ignore_index=True)
        few = rows[(rows["rows"] > 0) & (rows["rows"] < rows["features"])]
        few = few[(few["features"] <= median) & (few["rows"] <= self.share * median)]
        if few.empty:
            return []
        # Stable, so that of equal ones the first in order of execution is named.
        few = few.iloc[np.argsort((few["rows"] / few["features"]).to_numpy(), kind="stable")]
        first, affected = few.iloc[0], tuple(dict.fromkeys(few["layer"].astype(str)))
        return [
            Finding(
                layer=affected[0],
                site=INPUT,
                statistic="rows",
                value=float(first["rows"]),
                threshold=float(first["features"]),
                message=f"{first['what']} has {format_number(first['rows'])} rows for "
                f"{format_number(first['features'])} features, where the median Linear has {median:,.0f}"
                f"{_others(len(few), len(affected))}.",
                evidence=f"{INPUT}:n_samples",
                affected=affected,
            )
        ]


def _others(count: int, layers: int) -> str:
    """How many more there are."""
    if count == 1:
        return ""
    return f"; so it is at {count:,} in {format_count(layers, 'layer')}, this one first"


def _of_layers(linear: pd.DataFrame) -> pd.DataFrame:
    """Rows and features of each Linear."""
    return pd.DataFrame(
        {
            "layer": linear["layer"],
            "what": "It",
            "rows": linear["n_samples"],
            "features": linear["n_features"],
        }
    )


def _of_experts(tables: Tables) -> pd.DataFrame:
    """Rows and features of each expert's weights, where one weight holds those of all."""
    experts = tables.experts[tables.experts["site"].isin([INPUT, INTERMEDIATE])]
    # Of a list they are Linear layers, which have rows of their own.
    listed = set(tables.ledger_base.get("expert_of", pd.Series(dtype="string")))
    experts = experts[~experts["layer"].isin(listed)]
    return pd.DataFrame(
        {
            "layer": [_place(tables, str(layer)) for layer in experts["layer"]],
            "what": [f"Expert {expert}" for expert in experts["expert"]],
            "rows": experts["tokens"],
            "features": experts["n_features"],
        }
    )


def _place(tables: Tables, holder: str) -> str:
    """The layer that stands for a module of experts: its router, else one that it holds."""
    experts = tables.experts
    router = experts["router"][experts["layer"] == holder].iloc[0]
    if router:
        return str(router)
    names = tables.ledger_base["layer"]
    inside = names[(names == holder) | names.str.startswith(f"{holder}.")]
    return str(inside.iloc[0]) if len(inside) else holder
