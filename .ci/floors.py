"""Prints every floor that pyproject.toml declares, as a constraints file of pip that asks for exactly it."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
named = [entry for extra in ("demo", "gguf", "trainers", "test") for entry in extras[extra]]
for entry in [*project["dependencies"], *named]:
    if not entry.startswith("normprobe["):
        name, floor = entry.split(">=")
        print(f"{name}=={floor}")
