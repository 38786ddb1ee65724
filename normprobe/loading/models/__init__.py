"""A model from a checkpoint on disk, from the hub, or from a Python callable; its weights from and to a file.

In comes the name of a model as on the command line. Out goes a `LoadedModel`: the module in evaluation mode
on its device, and where its tokenizer or processor is found.

- `load`: which kind of model a name means; `checkpoint`, transformers' models; `import_path`, the user's own.
- `weights` and `save`: a state dict into a model, and out of it.
"""

from normprobe.loading.models.import_path import call_user_code, import_object, is_import_path
from normprobe.loading.models.load import LoadedModel, load_model
from normprobe.loading.models.progress_bars import without_bars
from normprobe.loading.models.save import check_new_weights, save_weights

__all__ = [
    "LoadedModel",
    "call_user_code",
    "check_new_weights",
    "import_object",
    "is_import_path",
    "load_model",
    "save_weights",
    "without_bars",
]
