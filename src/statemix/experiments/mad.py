"""Recipes of mechanistic architecture design: six tasks, one protocol.

12,800 training examples (memorization: 256), batch 128, 200 epochs, AdamW with a cosine to a thousandth of
its rate, width 128, two blocks of mixer and MLP. Learning rates of {1e-4, 5e-4, 1e-3} and weight decays of
{0, 0.1} are a grid for ``statemix sweep``, to be chosen by the validation columns of its table.

Source: Poli et al. 2024, arXiv 2403.17844.
"""

from __future__ import annotations

from collections.abc import Callable

from statemix.models import MixerConfig, ModelConfig
from statemix.tasks import make
from statemix.training import OptimizerConfig, RunConfig, ScheduleConfig, TaskData

TASKS = (
    "in-context-recall", "fuzzy-recall", "noisy-recall", "selective-copying", "compression", "memorization",
)  # fmt: skip

EXAMPLES, TEST_EXAMPLES, BATCH, EPOCHS = 12_800, 1_280, 128, 200
LEARNING_RATES = (1e-4, 5e-4, 1e-3)
WEIGHT_DECAYS = (0.0, 0.1)


def mad_recipe(task: str, *, epochs: int = EPOCHS) -> RunConfig:
    """One of the six tasks at its baseline setting, with BD-LRU in blocks of four.

    Raises:
        ValueError: no such task.

    Examples:
        >>> mad_recipe("compression").model.architecture
        'autoencoder'
    """
    made = make(task)
    examples = 256 if task == "memorization" else EXAMPLES
    return RunConfig(
        name=f"mad-{task}",
        model=ModelConfig(
            d_model=128,
            num_layers=2,
            mlp="swiglu",
            mixer=MixerConfig(name="bdlru", block_size=4, num_blocks=32),
            architecture="autoencoder" if task == "compression" else "language-model",
            max_length=made.length,
        ),
        # Tested at the length that is trained, which is an axis of difficulty here, and varied.
        data=TaskData(task=made, examples=examples, test_lengths=(), test_examples=TEST_EXAMPLES),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1),
        schedule=ScheduleConfig(name="cosine", warmup_share=0.0, end_share=1e-3),
        steps=epochs * (examples // BATCH),
        batch_size=BATCH,
        checkpoint_every=1000,
        log_every=50,
    )


def _recipe(task: str) -> Callable[[], RunConfig]:
    def make_recipe() -> RunConfig:
        return mad_recipe(task)

    make_recipe.__doc__ = f"MAD: {task.replace('-', ' ')} at the baseline setting; a run for a GPU."
    return make_recipe


MAD = {f"mad-{task}": _recipe(task) for task in TASKS}
"""Recipes by name."""
