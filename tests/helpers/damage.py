"""Ways to damage a recording: its bytes, what its zip file holds, and what its JSON says."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]

ODD: list[Any] = [None, -1, 0, 2**70, 1.5, True, "", "x", "\ud800", [], [1], {}, {"a": None}, "9" * 400]


def entries(recording: bytes) -> dict[str, bytes]:
    """What the zip file holds, by name."""
    with zipfile.ZipFile(io.BytesIO(recording)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(held: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these entries, whose checksums are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def flip(data: bytes, rng: random.Random) -> bytes:
    """Some bytes become others."""
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 4, 64])):
        damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(damaged)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def lose(data: bytes, rng: random.Random) -> bytes:
    """A stretch in the middle is missing, or occurs twice."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice([1, 2, 8, 100]))
    return data[:start] + (data[start:stop] * 2 if rng.random() < 0.5 else b"") + data[stop:]


def inside(data: bytes, rng: random.Random) -> bytes:
    """One entry is damaged, under a checksum that fits."""
    held = entries(data)
    name = rng.choice(sorted(held))
    if held[name]:
        held[name] = rng.choice([flip, flip, flip, cut, lose])(held[name], rng)
    return packed(held)


def exchange(data: bytes, rng: random.Random) -> bytes:
    """An entry is missing, or stands under another's name."""
    held = entries(data)
    one, other = rng.sample(sorted(held), 2)
    if rng.random() < 0.5:
        del held[one]
    else:
        held[one] = held[other]
    return packed(held)


def lie(data: bytes, rng: random.Random) -> bytes:
    """Something in the JSON is of another value, or missing."""
    held = entries(data)
    about = json.loads(held["recording.json"])
    node: Any = about
    while True:
        key = rng.choice(sorted(node))
        if isinstance(node[key], dict) and node[key] and rng.random() < 0.9:
            node = node[key]
            continue
        if rng.random() < 0.3:
            del node[key]
        else:
            node[key] = rng.choice(ODD)
        return packed(held | {"recording.json": json.dumps(about).encode()})


BLIND: list[Damage] = [flip, cut, lose]
"""Damage that checksums see: what loads all the same must be what was saved."""

FORGED: list[Damage] = [inside, inside, inside, exchange, lie]
"""Damage under right checksums: what loads must be tables that work."""
