"""Models small enough that everything about them can be compared."""

import torch

from statemix.models.huggingface import StatemixConfig, StatemixForCausalLM


def causal_lm(**settings) -> StatemixForCausalLM:
    """Weights large enough that greedy tokens differ from each other by far more than rounding."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_blocks": 8, "order": 2, "mixer": "bdlru"}
    model = StatemixForCausalLM(StatemixConfig(**(sizes | settings))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.0 if "embedding" in name else 0.3)
    return model


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Prompts of unequal length, padded on the left with a token that would be seen if it were read."""
    longest = max(map(len, rows))
    ids = [[7] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
