#!/usr/bin/env bash
# copy.deepcopy of a module copies its forward hooks, but what they write to depends on
# how the hook was written. A closure keeps writing to the one original recorder; a
# bound method is deep-copied together with its object, so the copy of the model writes
# to a hidden second recorder (starting with a copy of what the first had gathered).
# AveragedModel, which deep-copies, does the same.
# Why it matters: with a closure the statistics of both models mix; with a bound method
# the copy's statistics go where nobody can read them, and its memory doubles. Neither
# is visible from the outside. torch 2.13.0 (CPU), seen 2026-11-29.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

py=""
for c in python3.11 python3.12 python3.13; do
  if "$c" --version >/dev/null 2>&1; then py="$c"; break; fi
done
if [ -z "$py" ]; then echo "needs python 3.11 or newer" >&2; exit 2; fi

"$py" -m venv "$work/venv"
if ! "$work/venv/bin/pip" install -q --no-compile torch==2.13.0 numpy==2.4.6 >"$work/pip.log" 2>&1; then
  tail -n 20 "$work/pip.log" >&2
  exit 2
fi

cat >"$work/probe.py" <<'PY'
import copy, torch, torch.nn as nn
from torch.optim.swa_utils import AveragedModel
print("torch", torch.__version__)
class Recorder:
    def __init__(self): self.rows = 0
    def hook(self, module, args, out): self.rows += out.shape[0]
def build(kind):
    r, m = Recorder(), nn.Sequential(nn.LayerNorm(3))
    if kind == "bound method": m[0].register_forward_hook(r.hook)
    else: m[0].register_forward_hook(lambda mod, a, o: r.hook(mod, a, o))
    m(torch.randn(2, 3))
    assert r.rows == 2
    return r, m
print("expected: both ways of writing the same hook behave alike after a copy")
got = {}
for kind in ("closure", "bound method"):
    for how, cp in (("deepcopy", copy.deepcopy), ("AveragedModel", AveragedModel)):
        r, m = build(kind)
        c = cp(m)
        c(torch.randn(5, 3))
        ln = next(k for k in c.modules() if isinstance(k, nn.LayerNorm))
        h = list(ln._forward_hooks.values())[0]
        hidden = getattr(getattr(h, "__self__", None), "rows", None)
        print(f"{kind:13s} {how:14s}: rows in the user's recorder {r.rows}, in a hidden one {hidden}")
        got[kind, how] = (r.rows, hidden)
for how in ("deepcopy", "AveragedModel"):
    assert got["closure", how] == (7, None), got
    assert got["bound method", how] == (2, 7), got
print("seen: 7 rows or 2 rows, by the way the hook was written")
PY
cd "$work"
"$work/venv/bin/python" -W ignore probe.py
