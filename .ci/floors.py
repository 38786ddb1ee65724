"""Prints every floor that pyproject.toml declares, as a constraints file of pip that asks for exactly it.

Of a package that two extras ask for, the higher floor: both are installed together.
"""

import tomllib
from pathlib import Path


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(piece) for piece in version.split("."))


project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
named = [entry for extra in ("demo", "gguf", "trainers", "test") for entry in extras[extra]]
floors: dict[str, str] = {}
for entry in [*project["dependencies"], *named]:
    if not entry.startswith("normprobe["):
        name, floor = entry.split(">=")
        floors[name] = max(floor, floors.get(name, floor), key=_number)
for name, floor in floors.items():
    print(f"{name}=={floor}")
