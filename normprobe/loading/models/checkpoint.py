"""A transformers model from a folder, from the hub or from a GGUF file, with all of its trained weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from torch import nn

from normprobe.errors import ModelError
from normprobe.loading.models.import_path import describe
from normprobe.loading.models.sentence_modules import Find, with_sentence_modules

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

_COUNTS = re.compile("layer|block|depth|group|expert|label")
_MOST_COUNT = 100_000
"""Most of what these words of a config.json count: a damaged number would have torch build for hours."""

_WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
)
_OTHER_FORMATS = {
    "adapter_config.json": "a PEFT adapter; merge it into its base model (merge_and_unload) and save that",
    "model_index.json": "a diffusers pipeline; give one of its parts through module.py:callable",
}


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was loaded.

    Attributes:
        module: the model.
        name: what to call it in headings.
        source: folder or hub id that holds tokenizer and processor, or None.
        gguf: name of the GGUF file inside ``source``, or None.
        config: the transformers config, or None for a model of the user's own.
        warnings: what the user should know, a sentence each.
    """

    module: nn.Module
    name: str
    source: str | None
    gguf: str | None
    config: Any
    warnings: tuple[str, ...] = ()


def is_hub_id(text: str) -> bool:
    """Whether ``text`` could be ``name`` or ``owner/name`` on the hub."""
    # A file of data that is not there is none of the hub's models.
    return _HUB_ID.fullmatch(text) is not None and not text.endswith((".json", ".npy", ".txt"))


def from_folder(path: Path, spec: str, dtype: Any, trust: bool) -> Checkpoint:
    """Load the model of a local folder; nothing is fetched.

    Raises:
        ModelError: no or bad config.json, no weights, damaged or unfitting weights, an unknown architecture.
    """
    folder, path = path, _inner_folder(path)
    raw = _read_config(path / "config.json", spec)
    # Transformers would say which of its file names it did not find, all of them.
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise ModelError(f"{spec} has a config.json but no weights (*.safetensors or pytorch_model*.bin)")
    loaded = _load(raw, str(path), _folder_name(path, spec), dtype, trust)

    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return _with_modules(loaded, find)


def _with_modules(loaded: Checkpoint, find: Find) -> Checkpoint:
    """The checkpoint with the modules that stand behind its transformer."""
    module, said = with_sentence_modules(loaded.module, find)
    if find("adapter_config.json") is not None and not hasattr(module, "peft_config"):
        said = (*said, "adapter_config.json lies beside the model: the adapter's weights are left out")
    return replace(loaded, module=module, warnings=(*loaded.warnings, *said))


def from_hub(spec: str, dtype: Any, trust: bool) -> Checkpoint:
    """Load a model by its hub id, from the local cache where it is there.

    Raises:
        ModelError: as for a folder; or the hub has no such model or cannot be reached.
    """
    from transformers.utils import cached_file

    try:
        config = cached_file(spec, "config.json")
    except (OSError, ValueError) as cause:
        raise ModelError(
            f"{spec} is neither a folder here nor a model that the hub or its cache gives: {describe(cause)}"
        ) from cause
    if config is None:
        raise ModelError(f"{spec} on the hub has no config.json, which says what to build")
    loaded = _load(_read_config(Path(config), spec), spec, spec, dtype, trust)

    def find(name: str) -> Path | None:
        try:
            found = cached_file(spec, name, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None
        return None if found is None else Path(found)

    return _with_modules(loaded, find)


def from_gguf(path: Path, spec: str, dtype: Any) -> Checkpoint:
    """Load a GGUF file through transformers, dequantized.

    Raises:
        ModelError: the file is missing or damaged, or transformers cannot read its architecture.
    """
    if not path.is_file():
        raise ModelError(f"{spec} is not a file")
    # Four bytes show a renamed or damaged file before transformers reads all of it.
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{spec} does not begin like a GGUF file")
    # transformers takes the folder and the file's name apart.
    source = str(path.parent)
    try:
        config = transformers.AutoConfig.from_pretrained(source, gguf_file=path.name)
        module = transformers.AutoModelForCausalLM.from_pretrained(
            source, gguf_file=path.name, config=config, local_files_only=True, **_dtype_argument(dtype)
        )
    except ImportError as cause:
        raise ModelError(f"{spec} needs packages for GGUF: pip install gguf accelerate") from cause
    except Exception as cause:
        raise ModelError(f"{spec} cannot be read by transformers: {describe(cause)}") from cause
    return Checkpoint(module, spec, source, path.name, config)


def _inner_folder(path: Path) -> Path:
    """The folder of the transformer inside an older sentence-transformers folder."""
    inner = path / "0_Transformer"
    return inner if not (path / "config.json").exists() and (inner / "config.json").exists() else path


def _folder_name(path: Path, spec: str) -> str:
    """``spec``, or the last two parts of a long absolute path."""
    return spec if not Path(spec).is_absolute() else "/".join(path.resolve().parts[-2:])


def _read_config(file: Path, spec: str) -> dict[str, Any]:
    """The object in a config.json, checked.

    Raises:
        ModelError: there is none, it is of another format, or it is damaged.
    """
    if not file.is_file():
        for name, what in _OTHER_FORMATS.items():
            if (file.parent / name).exists():
                raise ModelError(f"{spec} is {what}")
        raise ModelError(f"{spec} has no config.json; a folder made by save_pretrained was needed")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as cause:
        raise ModelError(f"config.json of {spec} is not JSON: {describe(cause)}") from cause
    if not isinstance(raw, dict):
        raise ModelError(f"config.json of {spec} holds a {type(raw).__name__}; an object was needed")
    _check_counts(raw, spec)
    return raw


def _check_counts(raw: dict[str, Any], spec: str) -> None:
    """Check the numbers of layers, experts and so on in a config, inner configs included.

    Raises:
        ModelError: one is larger than that of any model.
    """
    for key, value in raw.items():
        if isinstance(value, dict):
            _check_counts(value, spec)
        elif isinstance(value, int) and value > _MOST_COUNT and _COUNTS.search(key):
            raise ModelError(
                f"config.json of {spec} says {key} {value:,}; is it damaged? At most {_MOST_COUNT:,} is built"
            )


def _load(raw: dict[str, Any], source: str, name: str, dtype: Any, trust: bool) -> Checkpoint:
    """Load the model of a config, with all of its weights.

    Raises:
        ModelError: its class cannot be had, or its weights are damaged, do not fit or are not all there.
    """
    cls, warnings = _model_class(raw, source, name, trust)
    try:
        module, info = cls.from_pretrained(
            source,
            output_loading_info=True,
            local_files_only=Path(source).is_dir(),  # a folder is whole, or an error says what is missing
            trust_remote_code=trust,
            **_dtype_argument(dtype),
        )
    except Exception as cause:
        raise ModelError(f"{name} cannot be loaded as {cls.__name__}: {_reason(cause)}") from cause
    warnings = (*warnings, *_missing_weights(info, module, name))
    return Checkpoint(module, name, source, None, module.config, warnings)


def _model_class(raw: dict[str, Any], source: str, name: str, trust: bool) -> tuple[Any, tuple[str, ...]]:
    """The class that config.json names, and warnings about it.

    A class that transformers lacks may come with the checkpoint as Python code, which runs only if the user
    trusts it.

    Raises:
        ModelError: no class is named, or it cannot be had.
    """
    architectures = raw.get("architectures")
    if not architectures:
        return _class_of_type(raw, name)
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise ModelError(
            f"config.json of {name} has architectures {architectures!r}; a list of names was needed"
        )
    # Not AutoModel, which would leave out the head: its Linear is a layer, too.
    architecture = architectures[0]
    cls = getattr(transformers, architecture, None)
    if isinstance(cls, type) and hasattr(cls, "from_pretrained") and issubclass(cls, nn.Module):
        return cls, ()
    remote = raw.get("auto_map")
    own = (
        [ref for ref in remote.values() if str(ref).endswith(f".{architecture}")]
        if isinstance(remote, dict)
        else []
    )
    if own and trust:
        return _remote_class(own[0], source, name), ()
    if own:
        raise ModelError(
            f"{name} brings the code of {architecture} with it; read it, and if you trust it, "
            "--trust-remote-code"
        )
    if isinstance(cls, type):
        raise ModelError(
            f"config.json of {name} names {architecture}, which is not a model that can be loaded here"
        )
    raise ModelError(
        f"config.json of {name} names the architecture {architecture}, which transformers "
        f"{transformers.__version__} does not have; update it, or build the model with module.py:callable"
    )


def _class_of_type(raw: dict[str, Any], name: str) -> tuple[Any, tuple[str, ...]]:
    """The base class of ``model_type`` where config.json names no architecture."""
    kind = raw.get("model_type")
    configs = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if isinstance(kind, str) and kind in configs:
        cls = transformers.MODEL_MAPPING.get(configs[kind], None)
        if isinstance(cls, type):
            return cls, (
                f"config.json names no architecture; taken as {cls.__name__} from model_type {kind}",
            )
    raise ModelError(
        f"config.json of {name} names no architecture: it has architectures {raw.get('architectures')!r} and "
        f"model_type {kind!r}; add the class to its architectures, or build the model with module.py:callable"
    )


def _remote_class(reference: str, source: str, name: str) -> Any:
    """The class that the checkpoint's own code defines; called only if the user trusts it.

    Raises:
        ModelError: the code cannot be loaded.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        return get_class_from_dynamic_module(reference, source)
    except Exception as cause:
        raise ModelError(f"the code that {name} brings cannot be loaded: {describe(cause)}") from cause


def _dtype_argument(dtype: Any) -> dict[str, Any]:
    """The dtype under the name that the installed transformers takes."""
    # Renamed in transformers 4.56.
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if version >= (4, 56) else "torch_dtype": dtype}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    while error is not None:
        yield error
        # transformers wraps some errors without `from`.
        error = error.__cause__ or error.__context__


def _reason(cause: Exception) -> str:
    """Why loading failed, in one line: what other libraries say in a paragraph, or name by a type alone."""
    # The second is torch's own, which transformers before 5 hands on.
    if "ignore_mismatched_sizes" in str(cause) or "copying a param with shape" in str(cause):
        return "the shapes of its weights do not fit its config.json"
    if type(cause).__name__ == "SafetensorError":
        return f"its weights are damaged or cut off ({describe(cause)}); fetch them again"
    # Transformers before 5 raises an OSError about it.
    if "UnpicklingError" in (type(error).__name__ for error in _chain(cause)):
        return "its weights hold pickled objects, and loading those runs whatever code they hold"
    return describe(cause)


def _missing_weights(info: dict[str, Any], module: nn.Module, name: str) -> tuple[str, ...]:
    """Warnings about weights that the checkpoint lacks: those of a pooler, whose output nothing reads.

    Raises:
        ModelError: it lacks others, which transformers would leave at random.
    """
    missing = sorted(str(key) for key in info.get("missing_keys", ()))
    # Many encoders are saved without one, and load with a fresh one that nobody reads.
    serious = [key for key in missing if "pooler" not in key]
    if serious:
        some = ", ".join(serious[:3]) + (f" and {len(serious) - 3} more" if len(serious) > 3 else "")
        raise ModelError(
            f"{name} lacks weights of {type(module).__name__}, which would be left at random: {some}; "
            "is architectures in its config.json right, and are all weight files there?"
        )
    return (f"{', '.join(missing)} not in the checkpoint: left at random",) if missing else ()
