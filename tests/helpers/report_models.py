"""Small models, recordings and findings for the tests of the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import normprobe
from normprobe.findings.check import COLUMNS
from normprobe.tables.frames import Tables


class Block(nn.Module):
    """A residual block: norm, two Linear."""

    def __init__(self, width: int, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Stack(nn.Module):
    """Blocks and a final norm, with layers that may never be called."""

    def __init__(self, blocks: int, width: int = 16, unused: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.unused = nn.ModuleList(nn.Linear(width, 2) for _ in range(unused))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def record(model: nn.Module, *batches: Tensor, **options: Any) -> Tables:
    """Record a model; the batches are two of 3 x 5 x 16 random numbers unless given."""
    options.setdefault("part", "test")
    recording = normprobe.record(model, list(batches) or random_batches(), **options)
    return recording.annotate(created="2026-01-02T03:04:05+00:00").tables


def random_batches(width: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 5, width, generator=generator) for _ in range(2)]


def stack(blocks: int, width: int = 16, unused: int = 0) -> Stack:
    torch.manual_seed(0)
    return Stack(blocks, width, unused)


def finding(layer: str, **facts: Any) -> dict[str, Any]:
    """One row of findings with ordinary values where none are given."""
    row = {
        "check": "massive",
        "title": "Massive activations",
        "severity": "info",
        "layer": layer,
        "site": "input",
        "statistic": "largest |value|",
        "value": 27346.8,
        "threshold": 100.0,
        "written_by": "",
        "evidence": "input:abs_max",
        "message": "|value| reaches 27,347 in feature 3.",
        "advice": "Keep this feature in 16 bit.",
        "source": "Sun et al. 2024, arXiv:2402.17762",
        "layers_affected": 1,
        "affected": layer,
    }
    return {**dict.fromkeys(COLUMNS, None), **row, **facts}


def findings_of(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)


NOTHING = findings_of()


@dataclass(frozen=True)
class Drawing:
    """Stands in for a rendered figure where a test is about the page around it."""

    name: str
    title: str
    caption: str = "**Bold** and <plain>."
    aria_label: str = "a figure"

    def svg(self, prefix: str, link: Any = None) -> str:
        path = f'<path id="{prefix}a" d="M0 0"/>'
        return f'<svg viewBox="0 0 763 10" role="img" aria-label="a figure">{path}</svg>'

    def save(self, directory: Path, png: bool = True, svg: bool = True) -> None:
        for ending in ["png"] * png + ["svg"] * svg:
            (directory / f"{self.name}.{ending}").write_text(self.name)


def text_of(html: str) -> str:
    """The words of a page: without styles, scripts and tags, white space as single blanks."""
    bare = re.sub(r"<(style|script)\b.*?</\1>", " ", html, flags=re.DOTALL)
    inline = re.sub(r"</?(wbr|b|bdi|code|strong|a|span|small)\b[^>]*>", "", bare)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", inline)).split())


def header_of(html: str) -> str:
    """The words above the sections of a page: verdict, alert, facts, notes, the strip's key."""
    found = re.search(r"<header>.*?</header>", html, re.DOTALL)
    assert found is not None
    return text_of(found.group())


def section_of(html: str, name: str) -> str:
    """The words of one section of a page."""
    found = re.search(rf'<section id="{name}">.*?</section>', html, re.DOTALL)
    assert found is not None
    return text_of(found.group())
