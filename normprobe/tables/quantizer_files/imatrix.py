"""The importance matrix of llama.cpp: sums of x² by weight, as GGUF and in the format before."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normprobe.kernels.moments import Moments
from normprobe.tables.frames import Tables
from normprobe.tables.quantizer_files.gguf_names import GgufName, gguf_names, gguf_package
from normprobe.tables.quantizer_files.one_weight_experts import ExpertWeights, by_weight, expert_weights
from normprobe.tables.quantizer_files.selection import NOT_FIRED, Selection
from normprobe.tables.quantizer_files.torch_files import narrowed, rows_of, sum_of_squares

OUTSIDE = "lay outside the blocks, which llama-imatrix leaves out, too"


@dataclass(frozen=True)
class Entry:
    """What the file holds of one weight.

    Attributes:
        sums: sums of x² over rows, float32 of shape (experts, in_features); of a plain Linear one row.
        counts: numbers of rows, float32 of shape (experts, 1).
        experts: whether the weight is that of experts.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]
    experts: bool


@dataclass(frozen=True)
class Matrix:
    """What the file holds in all.

    Attributes:
        entries: by the name of the weight, sorted.
        chunks: how many examples there were.
        chunk_size: rows per example, rounded up.
        data: what the data are called.
        layers: those that it holds, experts that read no row among them.
        left_out: of each Linear layer that is not in it, what became of it.
    """

    entries: dict[str, Entry]
    chunks: int
    chunk_size: int
    data: str
    layers: tuple[str, ...]
    left_out: dict[str, str]


def importance_matrix(tables: Tables, inputs: Selection) -> Matrix:
    """The importance matrix of a recording.

    Raises:
        RecordingError: llama.cpp has no names for the model, or ``gguf`` is missing.
    """
    layers = [*inputs.moments, *inputs.left_out]
    names = gguf_names(str(tables.facts["model"]), layers)
    chosen = tables.facts["options"].get("layers") is not None
    entries, left_out = {}, {}
    for weight, members in _by_weight(names).items():
        reason = _why_not(members, names, inputs, chosen)
        # An expert that did not fire is no gap: it has read no row.
        if reason or not any(layer in inputs.moments for layer in members):
            left_out.update({layer: inputs.left_out.get(layer, reason) for layer in members})
        else:
            entries[weight] = _entry(members, names, inputs.moments)
    for layer in layers:
        if layer not in names:
            left_out[layer] = inputs.left_out.get(layer, "had no name in a GGUF file")
    held = expert_weights(tables)
    entries |= {weight: _of_experts(weight, each) for weight, each in by_weight(held)}
    left_out = {layer: why for layer, why in left_out.items() if layer not in {each.layer for each in held}}
    left_out |= {each.layer: each.reason for each in held if each.reason}
    most = max((float(entry.counts.max()) for entry in entries.values()), default=0.0)
    # A chunk of llama-imatrix is a text of fixed length; here, an example.
    chunks = max(1, int(tables.facts.get("examples") or 0))
    return Matrix(
        dict(sorted(entries.items())),
        chunks,
        max(1, int(np.ceil(most / chunks))),
        str(tables.facts.get("data") or "normprobe"),
        tuple(layer for layer in layers if layer not in left_out),
        {layer: left_out[layer] for layer in layers if layer in left_out},
    )


def write_gguf(matrix: Matrix, handle: Any) -> None:
    """Write GGUF, as llama-imatrix does, into an open file that has a name."""
    writer = gguf_package().GGUFWriter(handle.name, "")
    # An importance matrix is of no architecture, but the writer begins with one.
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [matrix.data])
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    for weight, entry in matrix.entries.items():
        plain = (entry.sums, entry.counts) if entry.experts else (entry.sums[0], entry.counts[0])
        writer.add_tensor(f"{weight}.in_sum2", plain[0])
        writer.add_tensor(f"{weight}.counts", plain[1])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def write_dat(matrix: Matrix, handle: Any) -> None:
    """Write the format that llama-imatrix wrote before GGUF, little endian, into an open file."""
    handle.write(struct.pack("<i", len(matrix.entries)))
    for weight, entry in matrix.entries.items():
        calls = int(np.ceil(float(entry.counts.max()) / matrix.chunk_size))
        # An expert without rows gets 1: nothing is known of it, and 0 would say that nothing matters.
        means = np.where(entry.counts > 0, entry.sums / np.maximum(entry.counts, 1), 1.0)
        values = (means * calls).astype("<f4").ravel()
        handle.write(_text(weight) + struct.pack("<ii", calls, len(values)) + values.tobytes())
    handle.write(struct.pack("<i", matrix.chunks) + _text(matrix.data))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<i", len(encoded)) + encoded


def _by_weight(names: Mapping[str, GgufName]) -> dict[str, list[str]]:
    """The layers of each weight, experts in order."""
    members: dict[str, list[str]] = {}
    for layer, name in names.items():
        members.setdefault(name.weight, []).append(layer)
    return {weight: sorted(of, key=lambda layer: names[layer].expert or 0) for weight, of in members.items()}


def _why_not(members: list[str], names: Mapping[str, GgufName], inputs: Selection, chosen: bool) -> str:
    """Why the layers of a weight cannot be in the file; empty where they can."""
    if not names[members[0]].weight.startswith("blk."):
        return OUTSIDE
    if any(layer in inputs.aliases for layer in members):
        return "had several names, whose rows llama.cpp counts apart"
    experts = [names[layer].expert for layer in members]
    if experts == [None]:
        return ""
    if chosen or experts != list(range(len(experts))):
        return "shared a weight with layers that were not probed"
    missing = [layer for layer in members if inputs.left_out.get(layer, NOT_FIRED) != NOT_FIRED]
    return f"shared a weight with {missing[0]}, which {inputs.left_out[missing[0]]}" if missing else ""


def _of_experts(weight: str, held: ExpertWeights) -> Entry:
    """What the file holds of experts of one weight."""
    assert held.moments is not None, "else there is a reason"
    sums = narrowed(weight, sum_of_squares(held.moments)).reshape(len(held.rows), -1)
    return Entry(sums, held.rows[:, None].astype(np.float32), experts=True)


def _entry(members: list[str], names: Mapping[str, GgufName], moments: Mapping[str, Moments]) -> Entry:
    width = next(len(moments[layer].count) for layer in members if layer in moments)
    sums = np.zeros((len(members), width), np.float32)
    counts = np.zeros((len(members), 1), np.float32)
    for at, layer in enumerate(members):
        if layer in moments:
            sums[at] = narrowed(layer, sum_of_squares(moments[layer]))
            counts[at] = rows_of(moments[layer])
    return Entry(sums, counts, names[members[0]].expert is not None)
