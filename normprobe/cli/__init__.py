"""The command line: the library's own calls from a terminal."""

from normprobe.cli.commands import main

__all__ = ["main"]
