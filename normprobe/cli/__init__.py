"""The command line: parses, calls the library as anybody may, and prints.

In come arguments; out go an exit status, text on stdout, files in the folder that was named, and notes,
progress and errors on stderr, an error in one line. Nothing is computed here, and what is slow to import is
imported by the command that needs it: `normprobe --help` loads no torch.

- `commands`, `report_command` and `compare_command`: a function each; `options`, what several take, and
  `settings`, where options may stand instead.
- `load_or_measure`: a recording from what an argument names; `recalibrate_option`, weights as a by-product.
- `output_paths`, `progress`, `printing`, `sarif_file`, `error_lines`, `exit_status`: before, during and
  after.
"""

from normprobe.cli.commands import main

__all__ = ["main"]
