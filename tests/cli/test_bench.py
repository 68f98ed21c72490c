"""``statemix bench`` checks before it times, and says plainly what it cannot measure."""

import csv
import os
import re
import time

import pytest
import torch

from statemix.bench import cases, gate, host, operators, peers
from statemix.bench.cases import Case
from statemix.bench.environment import write_csv
from statemix.cli import main
from statemix.cli._outputs import check_output
from statemix.files import write_table
from statemix.nn import BDLRU, HLRU


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


@pytest.mark.parametrize("family", ["bdlru", "hlru"])
@pytest.mark.parametrize("backward", [False, True])
def test_no_time_is_printed_for_a_wrong_layer(monkeypatch, family, backward, capsys):
    sizes = peers.Sizes(2, 8, 16, 4 * 16**2, torch.float32)
    monkeypatch.setattr("statemix.bench.layers.sizes_for", lambda device: sizes)
    command = ["bench", "layer", "--device", "cpu", "--only", "2", "--no-peers", "--seconds", "0"]
    assert main(command) == 0
    layer = {"bdlru": BDLRU, "hlru": HLRU}[family]
    right = layer.forward

    def wrong(self, x):
        y = right(self, x)
        if self.backend == "reference":
            return y
        off = 1.001 * y
        return y + off - off.detach() if backward else off.detach() + (y - y.detach())

    monkeypatch.setattr(layer, "forward", wrong)
    capsys.readouterr()
    assert main(command) == 1
    what = "gradient of input" if backward else "output"
    assert re.search(
        rf"statemix bench: {layer.__name__} m=2 N=\d+: {what} is off by", capsys.readouterr().err
    )


def test_a_table_is_replaced_as_a_whole(tmp_path, monkeypatch):
    table = tmp_path / "t.csv"
    write_csv(table, [{"ms": 1.0}], ["before"])

    def full(handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_csv(table, [{"ms": 1.0}, {"ms": 2.0}], ["after"])
    assert table.read_text() == "ms\n1\n"
    assert table.with_suffix(".txt").read_text() == "before\n"


def test_a_table_may_be_written_to_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_table(tmp_path / "pipe", ("ms",), [{"ms": 1.0}])
    assert os.read(reader, 100) == b"ms\r\n1.0\r\n"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_the_floor_counts_every_tensor_once():
    case = Case(family="bdlru", B=1, T=1, M=2, N=1)
    assert case.floor_bytes("forward") == 4 * (6 + 2 + 2)
    assert case.floor_bytes("backward") == 4 * (6 + 2 + 2 + 2 + 6 + 2)


def test_the_shapes_for_a_gpu_cover_the_contract():
    contract = cases.cuda_cases(("contract",))
    for family in ("bdlru", "hlru"):
        mine = [c for c in contract if c.family == family]
        assert {c.normalization for c in mine} == {"softmax", "sigmoid", "relu", "tanh", "linear", "none"}
        assert {c.dtype for c in mine} == {torch.bfloat16, torch.float16, torch.float32}
        assert any(c.initial_state for c in mine) and any(c.sequences == 100 for c in mine)
        assert any(c.N % 8 for c in mine)
    with pytest.raises(ValueError, match="no cases odd; there are targets, contract, few-lanes"):
        cases.cuda_cases(("odd",))


def test_a_peer_that_fails_or_hangs_is_a_reason_and_stops_nothing():
    failed, right, gone = peers.side_by_side([(divmod, (7, 0)), (divmod, (7, 2)), (os._exit, (3,))], 60.0)
    with pytest.raises(RuntimeError, match="stopped after 1 s"):
        peers.isolated(time.sleep, (60,), 1.0)
    assert str(failed) == "ZeroDivisionError: integer division or modulo by zero"
    assert right == (3, 1)
    assert str(gone) == "its process ended with code 3"


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_what_a_call_costs_the_host_is_told_beside_an_addition(monkeypatch, seconds):
    monkeypatch.setattr("statemix.bench.host.isolated", lambda function, arguments, seconds: (30.0, 3.0))
    rows = list(host.measure(torch.device("cpu"), budget_s=seconds))
    assert [r.call for r in rows][-1] == "first forward and backward of a process, warm cache"
    assert rows[-1].over_add == 10
    assert all(r.over_add == pytest.approx(r.host_us / r.add_us) for r in rows)


def test_a_device_of_no_kind_is_named(capsys):
    assert main(["bench", "op", "--device", "gpu"]) == 2
    assert "statemix bench: --device gpu: there is no such kind" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "statemix bench: --threads must be an integer of at least 1; got 0"),
        (["--seconds", "-1"], "statemix bench: --seconds must be at least 0; got -1.0"),
        (["--only", "0"], "statemix bench: --only must be an integer of at least 1; got 0"),
        (
            ["--only", "1", "99", "--device", "meta"],
            "statemix bench: --device must be cpu or cuda, where times can be taken; got meta",
        ),
        (["--only", "99"], "statemix bench: --only must name some of the sizes [1, 2, 4, 8, 16]; got [99]"),
        (
            ["--backend", "triton"],
            "statemix bench: --backend triton cannot run on cpu: Triton compiles for GPUs",
        ),
        (
            ["--backend", "cuda"],
            "statemix bench: --backend cuda cannot run on cpu: the CUDA kernels need an NVIDIA GPU",
        ),
        (
            ["--csv", "rows.txt"],
            "statemix bench: --csv must not end with .txt, where what made the rows is said; got rows.txt",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    assert main(["bench", "op", "--device", "cpu", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err and not said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["op", "--minutes", "1"], "op takes no --minutes, which is of decode; got 1.0: leave it out"),
        (["layer", "--cases", "contract"], "layer takes no --cases, which is of op; got ('contract',)"),
        (["host", "--only", "4"], "host takes no --only, which is of op, layer, decode; got (4,)"),
        (["decode", "--peer-seconds", "3"], "decode takes no --peer-seconds, which is of op, layer; got 3.0"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(arguments, message, capsys):
    assert main(["bench", *arguments, "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert f"statemix bench: {message}" in said.err and not said.out


@pytest.mark.parametrize("command", ["bench", "evaluate"])
def test_a_table_that_cannot_be_written_is_named_before_anything_is_measured(tmp_path, command, capsys):
    (tmp_path / "file").write_text("a table")
    for out in (tmp_path / "file" / "x.csv", tmp_path):
        assert (
            main([command, *(["op"] if command == "bench" else []), "--device", "cpu", "--csv", str(out)])
            == 1
        )
        said = capsys.readouterr()
        assert re.search(
            rf"statemix {command}: --csv {out}: it cannot be written \(.*\); choose another", said.err
        )
        assert not said.out
    check_output("--csv", tmp_path / "new" / "x.csv")
    check_output("--csv", tmp_path / "file")
    assert not (tmp_path / "new" / "x.csv").exists() and (tmp_path / "file").read_text() == "a table"


@pytest.mark.parametrize(
    "command", ["demo", "reproduce", "generate", "evaluate", "convert", "bench", "doctor"]
)
def test_the_help_of_a_command_is_plain_text(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said
    assert not any(markup in said for markup in ("`", ":class:", ":func:", "Raises:", "Examples:"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named_with_what_to_do(capsys):
    assert main(["bench", "op", "--device", "cuda"]) == 2
    assert (
        "statemix bench: --device cuda cannot run here: PyTorch sees no NVIDIA GPU" in capsys.readouterr().err
    )
