"""`python -m normprobe` is the command `normprobe`."""

from normprobe.cli import main

if __name__ == "__main__":
    # Else click calls it `python -m normprobe` in usage and errors, which the README does not.
    main(prog_name="normprobe")
