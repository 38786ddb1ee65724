"""How long a user waits before anything happens: each command in a new process, median of several runs.

python -m benchmarks.report.startup [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import normprobe": ["-c", "import normprobe"],
    "normprobe --help": ["-c", "from normprobe.cli import main; main(['--help'])"],
    "normprobe.Probe": ["-c", "import normprobe; normprobe.Probe"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for arguments in COMMANDS.values():
        seconds(arguments)  # the first run fills the disk cache
    print(f"{'':18} median s    min s")
    for name, arguments in COMMANDS.items():
        taken = [seconds(arguments) for _ in range(runs)]
        print(f"{name:18} {statistics.median(taken):8.2f} {min(taken):8.2f}")


if __name__ == "__main__":
    main()
