"""`python -m normprobe` is the command `normprobe`."""

from normprobe.cli import main

if __name__ == "__main__":
    main(prog_name="normprobe")
