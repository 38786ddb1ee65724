"""Which findings follow from which: one cause is one thing to mend, however many checks it sets off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from normprobe.findings.check import Check, Finding
from normprobe.formatting import in_prose

Depth = Mapping[Any, Any]
"""The order of first execution, by layer."""


def _at_the_same_site(cause: Finding, effect: Finding, depth: Depth) -> bool:
    return (cause.layer, cause.site) == (effect.layer, effect.site)


def _at_a_layer_of_it(cause: Finding, effect: Finding, depth: Depth) -> bool:
    return effect.layer in cause.affected and depth[effect.layer] >= depth[cause.layer]


def _of_the_same_example(cause: Finding, effect: Finding, depth: Depth) -> bool:
    return cause.example is not None and effect.example == cause.example


def _at_the_same_layer(cause: Finding, effect: Finding, depth: Depth) -> bool:
    return effect.layer == cause.layer


_RULES: tuple[tuple[str, str, Callable[[Finding, Finding, Depth], bool]], ...] = (
    # Where all features are dead all samples are the same.
    ("dead_features", "collapsed_samples", _at_the_same_site),
    # Behind a collapse everything is constant.
    ("collapsed_samples", "constant_features", _at_a_layer_of_it),
    # What is multiplied by too much leaves fp16, and a bias that large drowns the samples.
    ("outlier_sample", "fp16_overflow", _of_the_same_example),
    ("variance_explodes", "fp16_overflow", _at_a_layer_of_it),
    ("variance_explodes", "collapsed_samples", _at_the_same_site),
    # What shrinks to nothing leaves the biases alone.
    ("variance_vanishes", "collapsed_samples", _at_a_layer_of_it),
    # The root of a negative running variance is NaN.
    ("running_variance_invalid", "nonfinite", _at_the_same_layer),
)
"""Cause, effect, and whether one finding of each has the same cause; of several causes the first counts."""


def linked(found: Sequence[tuple[Check, Finding]], depth: Depth) -> list[tuple[Check, Finding]]:
    """The same findings, those that follow from another saying so.

    Args:
        found: each finding with the check that found it.
        depth: order of first execution by layer name.
    """
    return [(check, _linked(check, finding, found, depth)) for check, finding in found]


def _linked(check: Check, effect: Finding, found: Sequence[tuple[Check, Finding]], depth: Depth) -> Finding:
    for name, of, follows in _RULES:
        if of != check.name:
            continue
        for other, cause in found:
            if other.name == name and follows(cause, effect, depth):
                title = cause.title or other.title
                words = f'Follows from "{title}" at {in_prose(cause.layer)}.'
                message = f"{effect.message} {words}"
                return replace(effect, message=message, advice="Mend that first.", follows_from=name)
    return effect
