"""The columns of every table: their order, dtype, unit and meaning.

In comes nothing but the fields of moments; out go lists of columns: `dtypes` names their dtypes, `tables` has
the public and the saved tables, with those of `distributions`, `experts` and `blocks`.
"""
