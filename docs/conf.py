"""How the documentation site is built: ``python -m sphinx -W --keep-going docs build/docs``.

Nothing is fetched, neither while it is built nor by who reads it: furo brings its own scripts and styles and
uses the fonts of the reader's system. The two reports that the pages link to are made here.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = "normprobe"
author = "the normprobe authors"
copyright = "2026, the normprobe authors"  # noqa: A001 - the name is Sphinx's
version = release = importlib.metadata.version("normprobe")

autodoc_mock_imports = ["lightning"]  # the site is built where it is not installed, too
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
# Docstrings write names of the package in single backticks.
default_role = "code"

autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_title = f"normprobe {release}"
html_copy_source = False
html_show_sphinx = False


def plain_docstring(*arguments: Any) -> None:
    """Edit the lines of a docstring, the last argument: |x| is a magnitude there, not a substitution."""
    lines = arguments[-1]
    for number, line in enumerate(lines):
        pieces = re.split(r"(``.*?``)", line)
        pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
        pieces[1::2] = [f"``{piece.strip('` ')}``" for piece in pieces[1::2]]
        lines[number] = "".join(pieces)


def make_reports(app: Any, error: Exception | None) -> None:
    """Make the two reports beside the finished pages, unless an earlier build left them there."""
    if error is None and app.builder.format == "html":
        from make_reports import main

        main(Path(app.outdir) / "reports")


def setup(app: Any) -> None:
    """Connect what is done to docstrings as they are read, and after all pages are written."""
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("build-finished", make_reports)
