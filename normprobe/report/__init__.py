"""A recording or a comparison for people: an HTML page, a notebook cell, a line, and text for the terminal.

Tables with their findings, or what a comparison found, come in; text or a written page goes out. `html`,
`terminal` and `notebook` are one output each; the files beside them have the words and rows that they
share.
"""

from normprobe.report.comparison_rows import comparison_title
from normprobe.report.files import (
    COMPARISON_PAGE,
    Report,
    earlier_report,
    remove_tables,
    replaced,
    report_files,
)
from normprobe.report.html.comparison_page import write_comparison
from normprobe.report.html.page import write_report
from normprobe.report.html.sections import check_choice
from normprobe.report.notebook.cell import notebook_html, one_line
from normprobe.report.page_path import PagePath
from normprobe.report.terminal.comparison import comparison_text
from normprobe.report.terminal.lines import stdout_unicode, stdout_width
from normprobe.report.terminal.recording import findings_text, terminal_text
from normprobe.report.terminal.summary import Summary

__all__ = [
    "COMPARISON_PAGE",
    "PagePath",
    "Report",
    "Summary",
    "check_choice",
    "comparison_text",
    "comparison_title",
    "earlier_report",
    "findings_text",
    "notebook_html",
    "one_line",
    "remove_tables",
    "replaced",
    "report_files",
    "stdout_unicode",
    "stdout_width",
    "terminal_text",
    "write_comparison",
    "write_report",
]
