"""Batches for a loaded model, from files, from a callable, or from the set that ships with normprobe.

In come a `LoadedModel` and the name of data as on the command line. Out go `Inputs`: batches on the model's
device, and what to say about them (units, token labels, warnings).

- `load`: the way through. `readers` make a source of a file (`text_files`, `tensor_files`, `bundled`), and
  what the model reads (`modality`) decides which of the next ones makes batches of it.
- `texts`, `images`, `text_image`, `image_prompts`, `audio`, `arrays`, `callables`: a source to `Inputs`.
- `from_config`: the same without a source, of what a config says; `expected_shape`: what to give where
  nothing says it.
- `processors`, `chat_templates`, `decoder_inputs`, `to_model`: what these share.

A new format of files is an entry of `readers.FORMATS` and a function that reads it into one of `sources`.
"""

from normprobe.loading.inputs.load import check_data, load_inputs
from normprobe.loading.inputs.sources import Batch, Inputs

__all__ = ["Batch", "Inputs", "check_data", "load_inputs"]
