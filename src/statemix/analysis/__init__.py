"""What a trained model does: spectra of its transitions, what its states keep, where gradients reach.

    transition_spectra, summarize         eigenvalues of the learned blocks
    state_bound, running_products         long runs: the bound on the state, what is left of it
    gradient_reach                        how far back an output's gradient reaches
    inspect_layers                        all of these, for every layer of a model

:mod:`statemix.analysis.report` writes such findings as one page of HTML.
"""

from .gradients import gradient_reach
from .inspection import LayerFindings, inspect_layers
from .recording import record_inputs
from .spectra import Spectrum, SpectrumSummary, memory_lengths, summarize, transition_spectra
from .stability import StateBound, contrast_left, running_products, state_bound

__all__ = [
    "LayerFindings",
    "Spectrum",
    "SpectrumSummary",
    "StateBound",
    "contrast_left",
    "gradient_reach",
    "inspect_layers",
    "memory_lengths",
    "record_inputs",
    "running_products",
    "state_bound",
    "summarize",
    "transition_spectra",
]
