"""Recordings of nothing: whether one is, and why, in the words that every verb raises."""

from __future__ import annotations

from normprobe.errors import NoSamplesError
from normprobe.tables.frames import Tables


def check_measured(tables: Tables) -> None:
    """Raise unless a sample was measured at one site of a Linear or norm at least.

    Raises:
        NoSamplesError: none was; the message says why, and what to do.
    """
    if int(tables.of_default_kinds.sites["n_samples"].sum()):
        return
    if int(tables.sites["n_samples"].sum()):
        known = dict(zip(tables.ledger_base["layer"], tables.ledger_base["kind"], strict=True))
        kinds = sorted({str(known[layer]) for layer in tables.sites["layer"]})
        raise NoSamplesError(
            f"only {', '.join(kinds)} was measured, which the tables hold: findings, reports and summaries "
            f"are of Linear and norm layers; ask for kinds={('default', *kinds)!r}"
        )
    fired = int((tables.ledger_base["status"] == "fired").sum())
    model, total = tables.facts["model"], len(tables.ledger_base)
    if fired:
        raise NoSamplesError(
            f"nothing was measured: {fired} of the {total} layers of {model} fired, on no sample; the "
            "batches have no rows, or the mask leaves every position out"
        )
    if called := int((tables.ledger_base["status"] == "unmeasured").sum()):
        raise NoSamplesError(
            f"nothing was measured: {called} of the {total} layers of {model} were called, and no call could "
            "be measured; their reasons are in the ledger"
        )
    # A forward that reached no layer is another matter than none.
    why = "; their reasons are in the ledger" if tables.facts["forwards"] else ""
    raise NoSamplesError(
        f"nothing was measured: none of the {total} layers of {model} fired{why}; call the model inside "
        "`with Probe(model) as probe:`, or run it with record(model, batches)"
    )
