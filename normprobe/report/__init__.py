"""A recording for people: an HTML page, a notebook cell, a line, and text for the terminal."""

from normprobe.report.comparison_page import write_comparison
from normprobe.report.notebook import notebook_html, one_line
from normprobe.report.page import write_report
from normprobe.report.panels import check_choice
from normprobe.report.terminal import terminal_text
from normprobe.report.terminal_comparison import comparison_text

__all__ = [
    "check_choice",
    "comparison_text",
    "notebook_html",
    "one_line",
    "terminal_text",
    "write_comparison",
    "write_report",
]
