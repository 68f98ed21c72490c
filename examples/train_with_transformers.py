"""Train a small byte model with Transformers' Trainer, save it, and let a pipeline write on.

With what pip install 'statemix[train,hf]' brings:

    python examples/train_with_transformers.py                      # Python's own library, a minute on a CPU
    python examples/train_with_transformers.py --corpus my-texts/ --steps 2000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, pipeline

from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM, byte_tokenizer
from statemix.text import open_corpus


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on, and for how long."""

    corpus: str = "stdlib"
    """"stdlib" for the source of Python's standard library, or the path of a text file or a folder."""
    out: Path = Path("runs/transformers")
    """Folder for checkpoints and the model."""
    steps: int = 300
    """Updates of the weights."""
    batch_size: int = 16
    """Windows in a batch."""
    length: int = 128
    """Bytes in a window."""


class Windows(Dataset):
    """Consecutive stretches of a text; a model predicts each byte from those before it."""

    def __init__(self, text: np.ndarray, length: int) -> None:
        self.rows = text[: len(text) // length * length].reshape(-1, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self.rows[index].astype(np.int64))
        return {"input_ids": row, "labels": row}


def main() -> None:
    """Train, evaluate in bits per byte, save, write on."""
    options = tyro.cli(Options, description=__doc__)
    corpus, tokenizer = open_corpus(options.corpus), byte_tokenizer()
    config = StatemixConfig(
        hidden_size=128, num_hidden_layers=2, mixer=["bdlru", "hlru"], block_size=4, num_blocks=32,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(options.out), max_steps=options.steps, per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size, learning_rate=4e-3, lr_scheduler_type="cosine",
        warmup_steps=options.steps // 10, logging_steps=50, report_to=[], save_strategy="no",
    )  # fmt: skip
    held_out = Windows(corpus.held_out[: 2**16], options.length)
    trainer = Trainer(
        StatemixForCausalLM(config), arguments, train_dataset=Windows(corpus.train, options.length),
        eval_dataset=held_out, processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    bits = trainer.evaluate()["eval_loss"] / np.log(2)
    trainer.save_model()
    print(f"{bits:.3f} bits per byte of held-out text; saved to {options.out}")
    write = pipeline("text-generation", model=trainer.model, tokenizer=tokenizer)
    print(write("def ", max_new_tokens=120, do_sample=True, temperature=0.7)[0]["generated_text"])


if __name__ == "__main__":
    main()
