"""A recording or a comparison for people: an HTML page, a notebook cell, a line, and text for the terminal.

Tables with their findings, or what a comparison found, come in; text or a written page goes out. `html`,
`terminal` and `notebook` are one output each; the files beside them have the words and rows that they
share.
"""

from normprobe.report.html.comparison_page import write_comparison
from normprobe.report.html.page import write_report
from normprobe.report.html.sections import check_choice
from normprobe.report.notebook.cell import notebook_html, one_line
from normprobe.report.page_path import PagePath
from normprobe.report.terminal.comparison import comparison_text
from normprobe.report.terminal.recording import terminal_text

__all__ = [
    "PagePath",
    "check_choice",
    "comparison_text",
    "notebook_html",
    "one_line",
    "terminal_text",
    "write_comparison",
    "write_report",
]
