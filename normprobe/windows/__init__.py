"""Recordings over time: the windows of a run, one after another, and their merge.

In come the tables of windows, each a recording of some steps of one phase, which `capture.freezing` closes.
Out goes what a recording shows over time (`over_time`). `series` puts the windows of a run in order and says
what each is of; the tables of the whole are their merge, which `tables.merging` makes what one probe over the
whole run would have measured. Where windows are written, every 64 of them are merged in a file more
(`rollups`), so that thousands of windows are read in seconds.
"""
