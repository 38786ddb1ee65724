"""One tensor at one site of one layer: arranged, placed, measured and added to what is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe import kernels
from normprobe.accumulators import Site
from normprobe.alignment import Assignment
from normprobe.forwards import Forward
from normprobe.kernels import Measured
from normprobe.masks import Padding
from normprobe.placing import Placed, place, place_nested
from normprobe.records import Holder, Kept
from normprobe.sampling import row_of
from normprobe.tracing import is_transformed
from normprobe.views import Arranged, arrange
from normprobe.watch import Watch


def first_tensor(values: Iterable[Any]) -> Tensor | None:
    """The first tensor among values, looking into tuples, lists and mappings."""
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (tuple, list)):
            found = first_tensor(value)
        elif isinstance(value, dict):
            found = first_tensor(value.values())
        else:
            continue
        if found is not None:
            return found
    return None


def unmeasurable(tensor: Tensor) -> str:
    """Why a tensor has no numbers to measure, or ""."""
    if tensor.is_meta:
        return "a call on meta tensors, which hold no numbers, is left out"
    if type(tensor).__name__ == "DTensor":
        return "a call on a DTensor, of which this process holds a part, is left out"
    if is_transformed(tensor):
        return "a call under a transform of torch.func, whose tensors stand for others, is left out"
    if tensor.is_complex():
        return "a call on complex numbers, which have no order, is left out"
    if tensor.layout not in (torch.strided, torch.jagged):
        return f"a call on a tensor of layout {tensor.layout} is left out"
    return ""


def take(
    watch: Watch,
    name: str,
    tensor: Tensor,
    forward: Forward,
    padding: Padding | None,
    *,
    seed: int,
    k: int | None,
) -> None:
    """Measure ``tensor`` at the site ``name`` of a layer and add it to what is kept."""
    tensor = tensor.detach()
    repeat = forward.repeats.get((watch.index, name), 0)
    forward.repeats[watch.index, name] = repeat + 1
    why = unmeasurable(tensor)
    if why:
        watch.note(why)
        return
    site = watch.sites[name]
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    arranged, placed = _arranged(watch, name, tensor, forward, padding, seed=seed, k=k)
    width = arranged.values.shape[2]
    if site.features is not None and len(site.features.count) != width:
        watch.note(
            f"a call with {width} features instead of {len(site.features.count)} at its {name} is left out"
        )
        return
    # Everything is computed before anything is added: a call that fails half-way leaves no half behind.
    measured, samples, rows = _looked_at(watch, name, arranged, placed, forward, seed=seed, repeat=repeat)
    _add(site, measured, placed, forward, dtype)
    site.samples.add(samples)
    site.rows.add(rows)
    _note_padding(watch, name, arranged, placed, padding)


def _looked_at(
    watch: Watch, name: str, arranged: Arranged, placed: Placed, forward: Forward, *, seed: int, repeat: int
) -> tuple[Measured, Kept, Kept]:
    """Moments of the tensor, and of its samples those that may be kept and their raw rows."""
    site, values = watch.sites[name], arranged.values
    order, hashes = placed.assignment.kept
    count = site.samples.admits(hashes)
    keep = order[:count]
    real = None if placed.real is None else placed.real.to(values.device)
    seen = watch.view.kind == "batch_norm" and real is not None
    measured = kernels.measure(values, torch.from_numpy(keep).to(values.device), real, seen=seen)
    chunk = _chunk(placed, forward, keep, hashes[:count], repeat)
    few = site.rows.admits(hashes[:count]) if values.shape[1] else 0
    rows = {column: array[:few] for column, array in chunk.items()}
    samples = Kept(**chunk, data=_sample_moments(measured))
    return measured, samples, Kept(**rows, data=_raw_rows(values, placed, keep[:few], seed))


def _note_padding(
    watch: Watch, name: str, arranged: Arranged, placed: Placed, padding: Padding | None
) -> None:
    """Say which mask was applied, or why one was not."""
    if placed.assignment.masked_by:
        watch.masked_by[placed.assignment.masked_by] = None
    elif padding is not None and name == "input" and _should_fit(arranged, placed):
        sizes = arranged.leading + arranged.inner
        watch.note(f"its samples {sizes} do not fit {padding.name} {padding.real.shape}: unmasked")
    if not placed.assignment.n_samples:
        watch.note(f"a call without a sample at its {name}")


def _should_fit(arranged: Arranged, placed: Placed) -> bool:
    """Whether a mask that does not fit is worth a word: not at a pooler or the head of a last position."""
    return not placed.aligned or len(arranged.inner) == 1 or arranged.leading[1:2] not in ((), (1,))


def _arranged(
    watch: Watch,
    name: str,
    tensor: Tensor,
    forward: Forward,
    padding: Padding | None,
    *,
    seed: int,
    k: int | None,
) -> tuple[Arranged, Placed]:
    """Read the tensor through the layer's view and number its samples."""
    if not tensor.is_nested:
        arranged = arrange(watch.view, tensor)
        return arranged, place(watch, name, arranged, forward, padding, seed=seed, k=k)
    components = [arrange(watch.view, component).values for component in tensor.unbind()]
    values = torch.cat(components)
    lengths = [len(component) for component in components]
    return Arranged(values, (len(values),), ()), place_nested(lengths, forward, seed=seed, k=k)


def _add(site: Site, measured: Measured, placed: Placed, forward: Forward, dtype: str) -> None:
    """Merge one call's moments and extremes."""
    width = len(measured.features.count)
    low = _holder(float(measured.features.minimum.min()) if width else np.inf, measured.minimum_at, width)
    high = _holder(float(measured.features.maximum.max()) if width else -np.inf, measured.maximum_at, width)
    site.add_extremes(*(_named(held, placed, forward) for held in (low, high)))
    seen = None if measured.seen is None else measured.seen.map(_numpy)
    site.add_features(measured.features.map(_numpy), seen)
    site.calls += 1
    site.n_samples += placed.assignment.n_samples
    site.masked += placed.masked
    site.nonfinite_masked += int(measured.nonfinite_masked)
    site.within_sum += float(measured.within_sum)
    site.within_count += int(measured.within_count)
    site.dtypes[dtype] = None


def _holder(value: float, at: Tensor, width: int) -> tuple[float, int, int]:
    index = int(at)
    return value, index // max(width, 1), index % max(width, 1)


def _named(held: tuple[float, int, int], placed: Placed, forward: Forward) -> Holder:
    value, sample, feature = held
    if not np.isfinite(value):
        return Holder(value, -1, -1, -1, "")
    assignment: Assignment = placed.assignment
    example, position = int(assignment.example[sample]), int(assignment.position[sample])
    return Holder(value, example, position, feature, placed.text_of(forward, sample))


def _chunk(
    placed: Placed, forward: Forward, keep: NDArray[np.intp], hashes: NDArray[np.uint64], repeat: int
) -> dict[str, NDArray[Any]]:
    """The identity of the samples of one call that may be kept."""
    texts = [placed.text_of(forward, int(sample)) for sample in keep] if forward.labels else [""] * len(keep)
    return {
        "hash": hashes,
        "example": placed.assignment.example[keep],
        "position": placed.assignment.position[keep],
        "repeat": np.full(len(keep), repeat, np.int64),
        "call": np.full(len(keep), forward.call, np.int64),
        "text": np.array(texts, dtype=object),
    }


def _sample_moments(measured: Measured) -> NDArray[np.float64]:
    kept = measured.kept
    columns = torch.stack([kept.count, kept.mean, kept.m2, kept.minimum, kept.maximum], 1)
    return np.asarray(_numpy(columns))


def _raw_rows(values: Tensor, placed: Placed, keep: NDArray[np.intp], seed: int) -> NDArray[Any]:
    """One real row of each sample, shape (samples, features), in float32 where that holds every number."""
    samples = torch.from_numpy(keep).to(values.device)
    if values.shape[1] == 1 or not len(keep):
        picked = values[:, 0].index_select(0, samples) if values.shape[1] else values[:0].flatten(0, 1)
    else:
        real = (
            np.ones((len(keep), values.shape[1]), bool) if placed.real is None else placed.real.numpy()[keep]
        )
        drawn = row_of(seed, placed.assignment.example[keep], real.sum(1))
        rows = np.array([np.flatnonzero(row)[index] for row, index in zip(real, drawn, strict=True)])
        picked = values[samples, torch.from_numpy(rows).to(values.device)]
    narrow = values.dtype in (torch.float32, torch.bfloat16, torch.float16)
    wide = torch.float32 if narrow else torch.float64
    return np.array(_numpy(picked.to(wide)))


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy()
