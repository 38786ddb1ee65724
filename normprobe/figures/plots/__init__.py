"""A file a figure: it takes its numbers from the tables, says what they mean, and draws them.

Tables, or a comparison, come in; out go axes (the function of the file's name), or a `Plan` for the report.
`figures.registry` says what such a file has. Files are imported by their full name: the functions of these
names are handed on by `normprobe.figures`, one folder up, so that neither hides the other.
"""
