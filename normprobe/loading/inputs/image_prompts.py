"""Images inside short prompts, through the processor of a model that reads both in one sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from normprobe.errors import DataError
from normprobe.loading.inputs.images import channels, open_image
from normprobe.loading.inputs.modality import image_token
from normprobe.loading.inputs.processors import load_processor
from normprobe.loading.inputs.sources import Batch, Chunks, Images, Inputs, count_of
from normprobe.loading.inputs.texts import labels_of
from normprobe.loading.inputs.to_model import keyword_tensors
from normprobe.loading.models import LoadedModel
from normprobe.loading.models.import_path import describe

# Of different lengths, so that the words after an image are not the same in every example.
PROMPTS = (
    "Describe this image.",
    "What is shown here, and where?",
    "Which colors does the picture have?",
    "Name one thing that is easy to overlook.",
)


def prepare(source: Images, model: LoadedModel, size: int) -> Inputs:
    """Make padded batches of ``size`` images in the order of their names, each inside a short prompt.

    The prompt of an image depends on its place alone, so that every batch size gives the same examples.

    Raises:
        DataError: the model has no processor or a damaged one, its chat template or the processor refuses a
            prompt, a file is not a readable image, or the image did not get into the text.
    """
    processor = load_processor(model)
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token  # the attention mask hides it
    prompter = _Prompter(processor, model)
    batches = Chunks(len(source.items), size, lambda rows: prompter.batch(source, rows))
    description = f"{count_of(len(source.items), 'image')} from {source.where}, each in a short prompt"
    return Inputs(batches, len(batches), description, "token", "image", (), labels_of(processor.tokenizer))


@dataclass(frozen=True)
class _Prompter:
    """A model's processor, and what it takes to make a batch with it."""

    processor: Any
    model: LoadedModel

    def batch(self, source: Images, rows: range) -> Batch:
        """The keyword arguments of some images; tokens are ``(images, tokens)``."""
        # A list for each example: the form in which every processor knows which image goes into which text.
        opened = [[open_image(source.items[row], channels(self.model))] for row in rows]
        written = [self._written(PROMPTS[row % len(PROMPTS)]) for row in rows]
        begin = self.processor.tokenizer.bos_token
        # A chat template may have put in the first token already.
        special = {"add_special_tokens": False} if begin and written[0].startswith(begin) else {}
        try:
            encoding = self.processor(
                images=opened, text=written, padding=True, return_tensors="pt", **special
            )
        except Exception as cause:
            raise DataError(
                f"{source.where}: the processor of {self.model.name} refuses it: {describe(cause)}"
            ) from cause
        return self._checked(keyword_tensors(encoding, self.model))

    def _written(self, prompt: str) -> str:
        """The text of a prompt with a place for its image in front."""
        if not getattr(self.processor, "chat_template", None):
            return f"{_image_text(self.processor, self.model)}{prompt}"
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        try:
            return str(
                self.processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
                )
            )
        except Exception as cause:
            raise DataError(
                f"the chat template of {self.model.name} refuses an image with a prompt: {describe(cause)}"
            ) from cause

    def _checked(self, batch: dict[str, torch.Tensor]) -> Batch:
        """A batch, checked for images that would not be read: a model takes their tokens for words then.

        Raises:
            DataError: there are such.
        """
        token = image_token(self.model)
        whole = {"input_ids", "pixel_values"} <= set(batch)
        if not whole or not bool(batch["input_ids"].eq(token or 0).any(1).all()):
            raise DataError(
                f"the processor of {self.model.name} puts no image into the text (token {token} was needed); "
                "give input_ids and pixel_values in an .npz file"
            )
        return batch


def _image_text(processor: Any, model: LoadedModel) -> str:
    """What stands for an image in a text that did not go through a chat template."""
    for name in ("boi_token", "image_token"):  # Gemma's processor writes image tokens after a start token
        token = getattr(processor, name, None)
        if token is not None:
            return str(token)
    return str(processor.tokenizer.convert_ids_to_tokens(image_token(model)))
