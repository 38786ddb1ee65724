"""The dtypes that columns of tables have."""

from __future__ import annotations

# NUMBER where an entry may be unknown (pandas' nullable integers); WHOLE where it never is.
TEXT, WHOLE, REAL, NUMBER, TRUTH = "string", "int64", "float64", "Int64", "boolean"
