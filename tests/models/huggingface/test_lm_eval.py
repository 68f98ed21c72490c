"""lm-evaluation-harness measures a model as the model itself does."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from statemix.models.huggingface import byte_tokenizer

from .small import causal_lm

pytest.importorskip("lm_eval")

TASK = """
task: local_bits
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
    aggregation: bits_per_byte
    higher_is_better: false
"""


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_local_task_finds_the_models_own_bits_per_byte(tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    texts = ["In the beginning", "naïve", "a longer text than the others, so that the batch is padded"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "task.yaml").write_text(TASK.format(file=tmp_path / "texts.jsonl"))
    model = causal_lm(mixer=["bdlru", "hlru"], eos_token_id=0, pad_token_id=0)
    measured = HFLM(pretrained=model, tokenizer=byte_tokenizer(), batch_size=2, device="cpu")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = simple_evaluate(measured, tasks=["local_bits"], task_manager=tasks, bootstrap_iters=0)
    nats = 0.0
    for text in texts:
        ids = torch.tensor([0, *text.encode()])
        nats += F.cross_entropy(model(ids[None, :-1]).logits[0], ids[1:], reduction="sum").item()
    wanted = nats / sum(len(text.encode()) for text in texts) / math.log(2)
    assert found is not None
    assert found["results"]["local_bits"]["bits_per_byte,none"] == pytest.approx(wanted, rel=1e-4)
