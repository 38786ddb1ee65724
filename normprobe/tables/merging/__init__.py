"""Recordings of parts of the data, or of windows, become the recording of the whole.

In come tables, out go tables: `checks` says what may be merged, `ledgers` joins what is said of layers and of
runs, `merge` the moments, kept samples and rows.
"""
