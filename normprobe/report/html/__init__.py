"""The pages: report.html of a recording, comparison.html of a comparison, each one file without requests.

Tables and findings come in; a page and the folder of its figures go out. A part of the page is a file that
turns tables into small records, which the templates of `templates/` show and escape.
"""
