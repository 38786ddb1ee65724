"""The words that every folder shares, listed once: kinds, units, severities, formats, sites, adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

NORM_KINDS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "norm")
KINDS = ("linear", *NORM_KINDS)
"""What a probe measures by default."""

FURTHER_KINDS = ("conv", "activation", "embedding", "attention", "residual")
"""What it measures on request alone."""
ALL_KINDS = (*KINDS, *FURTHER_KINDS)

DEFAULT = "default"
"""The word for `KINDS` among kinds that are asked for."""
FIRED, UNMEASURED = "fired", "unmeasured"
STATUSES = (FIRED, UNMEASURED, "bypassed", "refused", "never fired")
"""What became of a layer, the most telling first: of merged parts the first one counts.

Of an unmeasured one no call could be measured, though it was called.
"""

PLACEMENTS = ("whole", "features", "samples", "partial", "replicated")
"""What a part has of a site: all; some features of each sample; some samples of its data, the others being in
other parts; summands that were not added up; a copy of what other parts on the same data have."""

SAMPLE_UNITS = ("position", "example")

ADAPTER_BASES = ("base_layer", "original_module")
"""Attributes under which adapters keep the layer that they stand for."""

NO_GROUP = "(none)"
"""The group of samples of none, as the tables have it: no reader of CSV takes it for a missing value."""

GROUP_RULES = ("special", "first", "modality", "generated")
"""The ways of telling samples apart that need no function of the user's."""

EXPORT_FORMATS = ("act-scales", "awq", "llm-compressor", "imatrix", "imatrix-dat")
"""The files for quantizers that a recording can be written as."""

NUMBER_FORMATS = ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4", "int8")
"""The formats of few bits of which `Recording.fit` tells how they fit."""

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""How bad a finding is, the worst first."""

INPUT, OUTPUT = "input", "output"
"""The two sites that every layer has; of a norm, before and after normalization."""

INTERMEDIATE = "intermediate"
"""Of an expert, what its last Linear reads."""
EXPERT_SITES = (INPUT, INTERMEDIATE, OUTPUT)
"""Where an expert is measured: what it reads, what its last Linear reads, what it gives."""

INPUT_GRADIENT, OUTPUT_GRADIENT = "input_gradient", "output_gradient"
GRADIENT_OF = {INPUT: INPUT_GRADIENT, OUTPUT: OUTPUT_GRADIENT}
"""The sites of gradients, by what the gradient is of; layers have them where a probe was asked for them."""
GRADIENT_SITES = tuple(GRADIENT_OF.values())


@dataclass(frozen=True)
class Site:
    """A place at a layer where a tensor is measured.

    Attributes:
        name: as the tables have it.
        label: one or two words for people, at a norm.
        colour: in light and in dark colours, as ``#rrggbb``.
        number: its place among the sites, in order of registration; the C extension takes it.
    """

    name: str
    label: str
    colour: tuple[str, str]
    number: int

    @property
    def sign(self) -> str:
        """Its marker as a letter, so that no colour is the only sign; of many sites some share one."""
        return "○●■▲◆✚"[self.number if self.number < 2 else 2 + self.number % 4]


_SITES: dict[str, Site] = {}

SPARE_COLOURS = (
    ("#1f7a4d", "#5ec795"),
    ("#7a3fa0", "#c79be6"),
    ("#75690f", "#d0c258"),
    ("#8a4b4b", "#dd9f9f"),
)
"""For sites that come without one: at least 4.5 : 1 against the paper of both themes."""


def add_site(name: str, label: str, colour: tuple[str, str] | None = None) -> Site:
    """List a site, once; a site of this name that is listed stays as it is."""
    if name not in _SITES:
        number = len(_SITES)
        _SITES[name] = Site(name, label, colour or SPARE_COLOURS[(number + 2) % len(SPARE_COLOURS)], number)
    return _SITES[name]


def sites() -> tuple[Site, ...]:
    """Every site, in order."""
    return tuple(_SITES.values())


def site_of(name: str) -> Site:
    """The site of a name; one with a spare colour if it is not listed, as in a file from another process."""
    # The colour follows from the name, so that it is the same on every page.
    return _SITES.get(name) or Site(name, name, SPARE_COLOURS[len(name) % len(SPARE_COLOURS)], len(_SITES))


def site_order(name: str) -> tuple[int, str]:
    """What sorts the sites of a layer: in order of registration, those that nobody listed behind, by name."""
    return site_of(name).number, name


def group_order(name: str) -> tuple[bool, bool, int, str]:
    """What sorts the names of groups: whole numbers by size, then texts; last what is of no group."""
    whole = name.removeprefix("-").isdecimal()
    return name == NO_GROUP, not whole, int(name) if whole else 0, name


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names of sites, in the order of `site_order`."""
    return tuple(sorted(set(names), key=site_order))


# On import, so that they are the numbers 0 and 1, which `sign` draws hollow and filled.
add_site(INPUT, "before", ("#0b62a8", "#6db8f2"))
add_site(OUTPUT, "after", ("#b84a08", "#ffa05c"))
add_site(INPUT_GRADIENT, "gradient before", ("#4a5fb0", "#a3b4f5"))
add_site(OUTPUT_GRADIENT, "gradient after", ("#96405a", "#e99ab2"))

BRANCH = "branch"
"""The site of what a residual block adds: its output - its input."""
MAX_LOGIT, ENTROPY = "max_logit", "entropy"
"""The sites of an attention layer, whose features are its heads."""
add_site(BRANCH, "branch")
add_site(MAX_LOGIT, "largest logit")
add_site(ENTROPY, "entropy")

QUANTIZED = "quantized"
"""The setting, True, of torch's quantized modules, whose classes are called as those that they replace."""
