"""The example notebook runs, and its stored outputs are those of a run.

``python -m tests.documentation.test_notebook`` runs it and stores the outputs anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"
LARGEST = 400_000  # bytes


def run() -> Any:
    """The notebook, run from its first cell to its last in a kernel of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return NotebookClient(notebook, kernel_name="python3", timeout=300, record_timing=False).execute()


def shown(cell: Any) -> dict[str, str]:
    """What a cell shows, by media type; what it prints is plain text."""
    texts = {"text/plain": "".join(o["text"] for o in cell.outputs if o.output_type == "stream")}
    for output in cell.outputs:
        texts |= {kind: str(data) for kind, data in output.get("data", {}).items()}
    return {kind: text for kind, text in texts.items() if text}


def words(text: str) -> str:
    """A text without its numbers and white space, whose last digits and widths depend on the machine."""
    return re.sub(r"[\d.,\s×÷⁰¹²³⁴⁵⁶⁷⁸⁹−-]+", " ", text)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_stored_outputs_are_those_of_a_run() -> None:
    stored = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    fresh = [cell for cell in run().cells if cell.cell_type == "code"]
    for number, (old, new) in enumerate(zip(stored, fresh, strict=True), 1):
        assert old.execution_count == number
        before, after = shown(old), shown(new)
        assert set(before) == set(after), old.source
        assert words(before.get("text/plain", "")) == words(after.get("text/plain", ""))
        expected = numbers(before.get("text/plain", ""))
        assert numbers(after.get("text/plain", "")) == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_the_notebook_shows_the_recording_and_a_figure_and_stays_small() -> None:
    kinds = [set(shown(cell)) for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "outputs" in cell]
    assert {"text/plain", "text/html"} in kinds
    assert {"text/plain", "image/png"} in kinds
    assert NOTEBOOK.stat().st_size < LARGEST


def test_no_output_is_a_complaint() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "outputs" in cell]
    assert [o for cell in cells for o in cell.outputs if o.get("name") == "stderr"] == []


if __name__ == "__main__":
    nbformat.write(run(), NOTEBOOK)
