"""Statistics of every norm and Linear while transformers' Trainer fine-tunes a small BERT.

    python examples/transformers_trainer.py [FOLDER]

Training and evaluation are phases of their own. The trainer logs each 10 steps; there a window ends, and its
numbers go to TensorBoard: `tensorboard --logdir FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from normprobe.integrations.transformers import NormprobeCallback


def parities(count: int, seed: int) -> list[dict[str, object]]:
    """Rows of digits, and whether the first one is odd."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 10, (count, 8), generator=rng)
    return [{"input_ids": row, "labels": row[0] % 2} for row in rows]


def main(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=10, **sizes))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=60,
        learning_rate=3e-3,
        per_device_train_batch_size=16,
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=30,
        report_to=["tensorboard"],
        use_cpu=True,
        disable_tqdm=True,
    )
    callback = NormprobeCallback(every=2, out=folder / "run.windows")
    data = {"train_dataset": parities(1000, seed=1), "eval_dataset": parities(64, seed=2)}
    Trainer(model, arguments, callbacks=[callback], **data).train()

    recording = callback.recording
    print(recording.windows[["phase", "first_step", "last_step", "forwards"]].to_string(index=False))
    last = "bert.encoder.layer.1.output.LayerNorm"
    print(f"\nVariance before {last} over training:")
    layers = recording.over_time("layers", phase="train").query("layer == @last and site == 'input'")
    print(layers[["last_step", "variance"]].round(3).to_string(index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "trainer"))
