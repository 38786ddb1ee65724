"""The tokenizer, image processor or feature extractor that belongs to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from normprobe.errors import DataError
from normprobe.loading.models import LoadedModel
from normprobe.loading.models.import_path import describe

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.spm", "merges.txt", "tekken.json", "*.vocab")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_tokenizer(model: LoadedModel) -> Any:
    """Load the tokenizer of ``model``.

    Raises:
        DataError: it has none, a damaged one, or one without words.
    """
    # transformers makes a tokenizer with an empty vocabulary where there is none.
    if not has_tokenizer(model):
        raise DataError(
            f"{model.name} has no tokenizer files; save the tokenizer into it (tokenizer.save_pretrained), "
            "or give token ids as .npy"
        )
    extra = {"gguf_file": model.gguf} if model.gguf else {}
    tokenizer = _load(transformers.AutoTokenizer, "tokenizer", model, **extra)
    # Special tokens are made up where there are no files; words are not.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise DataError(
            f"the tokenizer of {model.name} has an empty vocabulary; save it again with its vocabulary"
        )
    return tokenizer


def has_tokenizer(model: LoadedModel) -> bool:
    """Whether there may be a tokenizer beside a model: it has files of one, or is not in a folder here."""
    if model.source is None:  # a model from code: nothing lies beside it
        return False
    source = Path(model.source)
    return bool(model.gguf) or not source.is_dir() or _has_any(source, _TOKENIZER_FILES)


def load_image_processor(model: LoadedModel) -> Any:
    """Load the image processor of ``model``, or return None where it has no file for one.

    Raises:
        DataError: it is damaged.
    """
    if model.source is None:
        return None
    source = Path(model.source)
    if source.is_dir() and not _has_any(source, _PROCESSOR_FILES):
        return None
    return _load(transformers.AutoImageProcessor, "image processor", model)


def load_processor(model: LoadedModel) -> Any:
    """Load the processor of ``model`` that makes images and text into one sequence.

    Raises:
        DataError: it has none, a damaged one, or one that needs a package that is not installed.
    """
    source, kind = Path(model.source or ""), type(model.module).__name__
    saved = not source.is_dir() or _has_any(source, _PROCESSOR_FILES)
    processor = _load(transformers.AutoProcessor, "processor", model) if saved else None
    # Where there is no whole processor transformers returns one of its parts.
    if any(getattr(processor, part, None) is None for part in ("tokenizer", "image_processor")):
        raise DataError(
            f"{model.name} has no processor with a tokenizer and an image processor, and {kind} needs one to "
            "read images; save it into the model (processor.save_pretrained), or give texts"
        )
    return processor


def load_feature_extractor(model: LoadedModel) -> Any:
    """Load the feature extractor of ``model``.

    Raises:
        DataError: it has none, or a damaged one.
    """
    return _load(transformers.AutoFeatureExtractor, "feature extractor", model)


def _load(cls: Any, what: str, model: LoadedModel, **extra: Any) -> Any:
    """Load a part of the model's own folder or hub id; from a folder nothing is fetched.

    Raises:
        DataError: it cannot be loaded.
    """
    source = str(model.source)
    try:
        return cls.from_pretrained(
            source,
            # A folder is whole, or an error says what is missing.
            local_files_only=Path(source).is_dir(),
            trust_remote_code=model.trust_remote_code,
            **extra,
        )
    except Exception as cause:
        raise DataError(
            f"the {what} of {model.name} cannot be loaded: {_reason(cause)}; "
            "give tensors as .npy or .npz instead"
        ) from cause


def _reason(cause: Exception) -> str:
    """An error in one line; which package is missing, where transformers says so in a paragraph."""
    needs_torchvision = isinstance(cause, ImportError) and "torchvision" in str(cause).lower()
    return "it needs torchvision; install it" if needs_torchvision else describe(cause)


def _has_any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)
