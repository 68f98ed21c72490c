"""Claim: at equal parameters or states, mixing beats width."""

from __future__ import annotations

from dataclasses import replace

from statemix.models.sizing import count_mixer_parameters, fit
from statemix.training import RunConfig

from ..changes import with_data
from ..recipes import recipe
from ..sweep import Trial
from .claim import Budget, Comparison, TrainedClaim, Values, exceeds
from .trials import SEEDS, trials_of

MIXING = "blocks"
_DIAGONAL = {
    "diagonal, equal states": 0.0,
    "diagonal, equal parameters": 1.0,
    "diagonal, 4 x the parameters": 4.0,
}


def trials(budget: Budget) -> list[Trial]:
    """S3 and counting at the trained length, and text where there is time for it."""
    names = ["s3-composition", "modular-counting"]
    if budget != "minutes":
        names += ["text-bytes"]
    made = []
    for name in names:
        base = recipe(name)
        if name != "text-bytes":
            base = with_data(base, test_lengths=(32,), test_examples=256)
        if budget == "minutes":
            base = replace(base, steps=250, batch_size=32)
        for model, config in {MIXING: base, **_diagonals(base)}.items():
            made += trials_of(config, model, case=name, seeds=SEEDS[budget])
    return made


def _diagonals(base: RunConfig) -> dict[str, RunConfig]:
    model = base.resolved().model
    mixer = model.mixer
    states = mixer.block_size * mixer.blocks_for(model.d_model)
    diagonal = replace(model, mixer=replace(mixer, block_size=1, num_blocks=states))
    parameters = count_mixer_parameters(model)
    found = {}
    for name, share in _DIAGONAL.items():
        config = fit(diagonal, mixer_parameters=int(share * parameters)).config if share else diagonal
        found[name] = replace(base, model=config)
    return found


def judge(values: Values) -> list[Comparison]:
    return [exceeds(values, MIXING, other) for other in _DIAGONAL]


CLAIM = TrainedClaim(
    name="structure-over-width",
    statement="At equal parameters or equal states, mixing states beats having more of them.",
    metric="mean over tasks of the share of right answers at the trained length (text: of bits saved)",
    reason="A diagonal layer may have as many states, as many parameters, or four times the parameters of a "
    "layer in blocks. If structure is what counts, none of these makes up for states that do not mix.",
    judge=judge,
    trials=trials,
)
