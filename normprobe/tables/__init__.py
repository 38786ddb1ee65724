"""Frames: what was measured, as tables; built, merged, saved, derived.

In: the frozen records of a probe (`records`), or a file. Out: `frames.Tables`, whose base frames hold moments
and whose public frames are derived from them; CSV and Parquet files. `columns` names every column, `merging`
joins parts, `measures` holds each quantity that findings, figures, report and audit show.
"""
