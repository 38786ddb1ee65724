"""The dtypes of columns, and the columns that follow from moments: what every list of columns is made of."""

from __future__ import annotations

from normprobe.kernels.moments import MOMENT_FIELDS, PublicColumn

# NUMBER where an entry may be unknown (pandas' nullable integers); WHOLE where it never is.
TEXT, WHOLE, REAL, NUMBER, TRUTH = "string", "int64", "float64", "Int64", "boolean"


def public_moments() -> list[PublicColumn]:
    """The columns of ``features`` that come from the moments of a feature, in order."""
    return [field.public for field in MOMENT_FIELDS.values() if field.public is not None]
