"""What a probe hands over, as plain records of numbers and arrays; tables are built from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from numpy.typing import NDArray

from normprobe.kernels.distributions.options import Distribution
from normprobe.kernels.moments import Moments

Numbers = NDArray[Any]


def valid_text(text: str) -> str:
    """A text as Unicode, which pandas and Parquet ask for: what stands alone of a pair becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def valid_name(name: str) -> str:
    """A name as Unicode; what is none is escaped, so that names that differ go on differing.

    So is NUL: pandas before 3 compares texts up to the first one only.
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


class Holder(NamedTuple):
    """Who holds an extreme."""

    value: float
    example: int
    position: int
    feature: int
    text: str

    @staticmethod
    def of(value: float, example: int, position: int, feature: int) -> Holder | None:
        """A holder as an accelerator names it, without a text; None where there is none."""
        return Holder(value, example, position, feature, "") if example >= 0 else None


class FirstNonfinite(NamedTuple):
    """Who holds the first NaN or Inf.

    Attributes:
        call: running number of the forward.
        example: running number of the example.
        position: index among the real samples of the example.
        feature: the feature.
    """

    call: int
    example: int
    position: int
    feature: int


@dataclass(frozen=True, eq=False)
class Kept:
    """Kept samples of one layer and site, in ascending order of (hash, repeat); arrays of one length.

    Attributes:
        hash: of (seed, example, position), below 2**63.
        example: running number of the example.
        position: index among the real samples of the example.
        repeat: which of the layer's calls within the forward.
        call: running number of the forward.
        data: what is kept of each: moments, shape (samples, 5), or 7 with the third and fourth; or a raw row,
            shape (samples, features).
        text: its label, or "".
    """

    hash: Numbers
    example: Numbers
    position: Numbers
    repeat: Numbers
    call: Numbers
    data: Numbers
    text: Numbers

    def __len__(self) -> int:
        return len(self.hash)

    def take(self, index: Any) -> Kept:
        """The samples at these indices."""
        return Kept(*(getattr(self, column.name)[index] for column in fields(self)))


class Placement(NamedTuple):
    """What of a whole tensor one process has at a site, where tensors are spread over processes.

    Attributes:
        kind: one of `normprobe.vocabulary.PLACEMENTS`.
        first_feature: of "features", which feature of the whole its first one is; else None.
        whole_features: of "features", how many the whole has; else None.
    """

    kind: str
    first_feature: int | None = None
    whole_features: int | None = None


WHOLE = Placement("whole")
"""The placement of what one process has all of."""


@dataclass(frozen=True, eq=False)
class GroupRecord:
    """One group of the samples of one site, frozen: what `SiteRecord` has, without kept samples."""

    group: str
    calls: int
    n_samples: int
    masked: int
    nonfinite_masked: int
    within_sum: float
    within_count: int
    features: Moments
    minimum: Holder | None
    maximum: Holder | None
    nonfinite: FirstNonfinite | None = None


@dataclass(frozen=True, eq=False)
class SiteRecord:
    """One site of one layer: what `normprobe.capture.states.site_state.SiteState` holds, frozen."""

    site: str
    dtype: str
    calls: int
    n_samples: int
    masked: int
    nonfinite_masked: int
    within_sum: float
    within_count: int
    features: Moments
    seen: Moments | None
    minimum: Holder | None
    maximum: Holder | None
    samples: Kept | None
    rows: Kept | None
    nonfinite: FirstNonfinite | None = None
    groups: tuple[GroupRecord, ...] = ()
    distribution: Distribution | None = None
    placement: Placement = WHOLE


@dataclass(frozen=True)
class ParameterRecord:
    """One parameter: sums over the steps that were measured, as the columns of `parameter_moments` say."""

    parameter: str
    size: int
    steps: int
    weight_square: float
    weight_count: int
    weight_max: float
    weight_nonfinite: int
    gradients: int
    gradient_square: float
    gradient_count: int
    gradient_max: float
    gradient_nonfinite: int
    skipped: int
    updates: int
    update_square: float
    update_count: int
    updated_square: float


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One layer: its ledger row and, if it fired, its sites and the vectors it applied; its parameters."""

    ledger: dict[str, Any]
    depth: int | None
    sites: tuple[SiteRecord, ...]
    vectors: dict[str, Numbers]
    parameters: tuple[ParameterRecord, ...] = ()


@dataclass(frozen=True, eq=False)
class ExpertSiteRecord:
    """What the experts of a module read or give.

    Attributes:
        site: input, intermediate or output.
        width: features of a row.
        rows: how many rows each expert has, shape (experts,).
        features: moments of each feature, one expert after the other, fields of shape (experts x width,).
    """

    site: str
    width: int
    rows: Numbers
    features: Moments


@dataclass(frozen=True, eq=False)
class ExpertRecord:
    """A module that holds experts.

    Attributes:
        layer: its name.
        depth: order of first execution among such modules.
        count: how many experts there are.
        weights: of each expert the sum of its routing weights, shape (experts,).
        weighted: how many rows these are of, shape (experts,).
        sites: what was measured.
    """

    layer: str
    depth: int
    count: int
    weights: Numbers
    weighted: Numbers
    sites: tuple[ExpertSiteRecord, ...]
