"""``statemix bench`` checks before it times, and says plainly what it cannot measure."""

import csv

import pytest
import torch

from statemix.bench import gate, operators
from statemix.bench.cases import Case
from statemix.cli import main


def test_a_table_of_operators_is_written_with_what_made_it(tmp_path, monkeypatch, capsys):
    small = [Case(family=f, B=2, T=16, M=2, N=8) for f in ("bdlru", "hlru")]
    monkeypatch.setattr("statemix.bench.cases.cpu_cases", lambda: small)
    out = tmp_path / "table.csv"
    assert main(["bench", "op", "--device", "cpu", "--seconds", "0.01", "--no-peers", "--csv", str(out)]) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(r["family"], r["direction"]) for r in rows] == [
        (f, d) for f in ("bdlru", "hlru") for d in ("forward", "forward+backward")
    ]
    for row in rows:
        case = small[0] if row["family"] == "bdlru" else small[1]
        speed = case.floor_bytes(row["direction"]) / float(row["ms"]) / 1e6
        assert float(row["floor_gb_s"]) == pytest.approx(speed, rel=1e-3)
        assert float(row["share_of_copy"]) == pytest.approx(speed / float(row["copy_gb_s"]), rel=1e-3)
    assert torch.__version__ in out.with_suffix(".txt").read_text()
    assert "bdlru" in capsys.readouterr().out


def test_no_time_is_printed_for_a_wrong_result(monkeypatch):
    case = Case(family="bdlru", B=1, T=8, M=2, N=4)
    right = Case.run

    def wrong(self, tensors, cu_seqlens, backend):
        hidden, final = right(self, tensors, cu_seqlens, backend)
        return (hidden * 1.001 if backend == "cpu" else hidden), final

    monkeypatch.setattr(Case, "run", wrong)
    with pytest.raises(gate.WrongResult, match=r"hidden is off by 1\.0e-03"):
        next(operators.measure([case], torch.device("cpu"), "cpu"))


def test_the_floor_counts_every_tensor_once():
    case = Case(family="bdlru", B=1, T=1, M=2, N=1)
    assert case.floor_bytes("forward") == 4 * (6 + 2 + 2)
    assert case.floor_bytes("backward") == 4 * (6 + 2 + 2 + 2 + 6 + 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named_with_what_to_do(capsys):
    assert main(["bench", "op", "--device", "cuda"]) == 2
    assert (
        "statemix bench: --device cuda cannot run here: PyTorch sees no NVIDIA GPU" in capsys.readouterr().err
    )
