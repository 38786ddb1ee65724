"""The columns of every table: their order, dtype, unit and meaning.

`dtypes` names the dtypes; `tables` lists the public and the saved tables, with those of `distributions`,
`experts` and `blocks`. Nothing here holds data.
"""
