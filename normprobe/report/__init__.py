"""A recording for people: an HTML page, a notebook cell, a line, and text for the terminal."""

from normprobe.report.notebook import notebook_html, one_line
from normprobe.report.page import write_report
from normprobe.report.panels import check_choice
from normprobe.report.terminal import terminal_text

__all__ = ["check_choice", "notebook_html", "one_line", "terminal_text", "write_report"]
