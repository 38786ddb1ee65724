"""Attach a probe to tiny random models of every kind, and hold what it says to a float64 reference.

``python -m benchmarks.survey [--only GLOB ...] [--verbose]`` builds models of every transformers model type
from the defaults of its config class, made tiny, and of torch's own modules; runs each three times bare,
under hooks of the reference's own, and probed; prints a table by family and the totals. What cannot be built
here (a missing package, sizes that depend on one another) is counted apart.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from benchmarks.survey.check import Checked, check
from benchmarks.survey.configs import LARGEST, tiny
from benchmarks.survey.inputs import inputs_for, with_images
from benchmarks.survey.torch_modules import torch_models
from normprobe.errors import NoLayersError

_HEADS = [
    "IMAGE_TEXT_TO_TEXT",
    "SPEECH_SEQ_2_SEQ",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "CAUSAL_LM",
    "MASKED_LM",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "TIME_SERIES_PREDICTION",
    "SEQUENCE_CLASSIFICATION",
    "MASK_GENERATION",
    "BACKBONE",
]
_ATTEMPTS = 80
_CALLS = 3
"""What a first call decides holds in the second, and what alike layers agreed on in the third."""
COLUMNS = [
    "types",
    "models",
    "layers",
    "fired",
    "functional",
    "declared",
    "exact",
    "crash",
    "silent",
    "outputs",
    "hooks",
]


@dataclass(frozen=True)
class Case:
    """A model and a call of it.

    Attributes:
        name: the model type and the class.
        family: the row of the table that it counts in.
        model: the model, in evaluation mode.
        run: calls it.
        mask: which positions are real, shape (batch, time); None for all.
    """

    name: str
    family: str
    model: nn.Module
    run: Callable[[], Any]
    mask: Tensor | None = None


def classes(model_type: str) -> list[type[nn.Module]]:
    """The bare model of a type, and the first class with a head."""
    found = []
    for name in ("", *_HEADS):
        mapping = getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING" if name else "MODEL_MAPPING", None)
        try:
            cls = mapping[CONFIG_MAPPING[model_type]]
        except Exception:  # not in this mapping, or only with a package that is not installed
            continue
        found.append(cls[0] if isinstance(cls, tuple) else cls)
        if name:
            break
    return list(dict.fromkeys(found))


def case_of(model_type: str, cls: type[nn.Module]) -> Case | None:
    """A tiny model of a class with inputs that it takes; None if none was found."""
    for config in tiny(CONFIG_MAPPING[model_type]):
        torch.manual_seed(0)
        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in cls(config).parameters())
            if size > LARGEST:
                continue
            model = _initialised(cls, config)
            inputs = _accepted(model)
        except Exception:  # sizes that do not fit together: any error of any model
            continue
        if inputs is not None:
            name = f"{model_type} {cls.__name__}"
            run = lambda model=model, inputs=inputs: model(**copy.deepcopy(inputs))  # noqa: E731
            return Case(name, _family(model, inputs), model, run, inputs.get("attention_mask"))
    return None


def _initialised(cls: type[nn.Module], config: Any) -> nn.Module:
    """A model in evaluation mode, with random numbers where its class leaves memory as it comes."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    # torch then fills such memory with NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        model = cls(config).eval()
    finally:
        torch.use_deterministic_algorithms(deterministic)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.copy_(torch.where(value.isnan(), 0.02 * torch.randn(value.shape), value))
    return model


def _accepted(model: nn.Module) -> dict[str, Any] | None:
    """The fullest inputs that a model takes."""
    for attempt, inputs in enumerate(inputs_for(model)):
        if attempt == _ATTEMPTS:
            break
        refusal = _refusal(model, inputs)
        if not refusal:
            return inputs
        for more in with_images(inputs, model, refusal):
            if not _refusal(model, more):
                return more
    return None


def _refusal(model: nn.Module, inputs: dict[str, Any]) -> str:
    try:
        with torch.no_grad():
            model(**copy.deepcopy(inputs))
    except Exception as error:  # whatever a model says of inputs it does not take
        return str(error) or "refused"
    return ""


def _family(model: nn.Module, inputs: dict[str, Any]) -> str:
    """What a model is, by what it reads and what it is made of."""
    types = " ".join({type(module).__name__ for module in model.modules()}).lower()
    image = any(name.startswith("pixel") or name == "grid_thw" for name in inputs)
    audio = "input_values" in inputs or "input_features" in inputs
    if "past_values" in inputs:
        return "time series"
    if (image or audio) and "input_ids" in inputs:
        return "multimodal"
    if image or audio:
        return "vision" if image else "audio"
    if "decoder_input_ids" in inputs:
        return "text, encoder-decoder"
    if any(word in types for word in ("mamba", "rwkv", "deltanet", "rglru", "xlstm", "ssm", "shortconv")):
        return "text, state space"
    return "text, mixture of experts" if "expert" in types or "moe" in types else "text"


def cases(only: list[str]) -> Iterator[Case | str]:
    """Every model there is; the name of one that could not be built."""
    for name, model, run in torch_models():
        if _wanted(f"torch.{name}", only):
            yield Case(f"torch.{name}", "torch", model, run)
    for model_type in CONFIG_MAPPING_NAMES:
        if _wanted(model_type, only):
            for cls in classes(model_type):
                yield case_of(model_type, cls) or f"{model_type} {cls.__name__}"


def _wanted(name: str, only: list[str]) -> bool:
    return not only or any(fnmatch.fnmatch(name, pattern) for pattern in only)


def survey(only: list[str], verbose: bool) -> tuple[dict[str, Counter[Any]], list[str]]:
    """Check every model; counts by family, and what could not be built."""
    families: dict[str, Counter[Any]] = {}
    absent = []
    for case in cases(only):
        if isinstance(case, str):
            absent.append(case)
            continue
        try:
            found = check(case.model, partial(several, case.run), case.mask)
        except NoLayersError:
            continue
        except Exception as error:
            found = Checked(faults=[f"crash: {type(error).__name__}: {error}"])
        _count(families.setdefault(case.family, Counter()), case, found)
        if found.faults or verbose:
            print(f"{case.name}: {found.exact} of {found.fired} exact", *found.faults, sep="\n  ", flush=True)
    return families, absent


def several(run: Callable[[], Any]) -> list[Any]:
    """Call a model as often as the survey does."""
    return [run() for _ in range(_CALLS)]


def _count(counts: Counter[Any], case: Case, found: Checked) -> None:
    counts["types", case.name.split()[0]] += 1
    counts["models"] += 1
    for name in ("layers", "fired", "functional", "declared", "exact"):
        counts[name] += getattr(found, name)
    for name, word in (("crash", "crash"), ("silent", "silent"), ("outputs", "outputs"), ("hooks", "a hook")):
        counts[name] += sum(fault.startswith(word) for fault in found.faults)


def show(families: dict[str, Counter[Any]], absent: list[str]) -> None:
    """Print the table and the totals."""
    print(f"{'family':26}" + "".join(f"{name:>11}" for name in COLUMNS))
    for family in sorted(families):
        _line(family, families[family])
    total = sum(families.values(), Counter())
    _line("all", total)
    measured = total["fired"] - total["functional"]
    share = total["exact"] / max(measured, 1)
    print(f"\n{share:.2%} of {measured} measured layers exact; {len(absent)} models could not be built here")


def _line(name: str, counts: Counter[Any]) -> None:
    types = sum(isinstance(key, tuple) for key in counts)
    print(f"{name:26}" + "".join(f"{value:>11}" for value in (types, *(counts[c] for c in COLUMNS[1:]))))


def main() -> None:
    """Run the survey."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="glob patterns over model types")
    parser.add_argument("--verbose", action="store_true", help="a line per model; what could not be built")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    families, absent = survey(options.only, options.verbose)
    show(families, absent)
    if options.verbose:
        print("not built:", *absent, sep="\n  ")


if __name__ == "__main__":
    main()
