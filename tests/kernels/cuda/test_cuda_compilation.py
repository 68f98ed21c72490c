"""Kernels compiled without a GPU, and what the assembler says of them. All of them: `make kernels-check`."""

import re
from dataclasses import replace

import pytest

from statemix.kernels.cuda import cache, check, compiler, launch, rule
from statemix.kernels.cuda.rule import choose

try:
    compiler.nvrtc_version()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)


def _sample():
    """For every target the hardest kernels of both families, and each kernel, row layout and flag once on 9.0."""
    chosen = []
    for target, device in check.DEVICES.items():
        for family, m in (("bdlru", 4), ("bdlru", 8), ("hlru", 8)):
            options = ("backward", m, "bfloat16", "softmax", 64, 2048, 1024, device)  # of the covering list
            chosen.append((choose(family, *options), target))
    device = check.DEVICES["sm_90"]
    problem = ("bfloat16", "softmax", 8, 4096, 1024, device)
    chosen += [(choose("bdlru", "forward", 16, *problem), "sm_90")]
    chosen += [
        (choose("bdlru", "backward", 2, *problem, rows=rows), "sm_90")
        for rows in ("stepped", "strided", "unaligned")
    ]
    chosen += [(choose("hlru", "backward", 4, *problem, time_broadcast=True, gate_gradient=False), "sm_90")]
    chosen += [
        (choose("bdlru", direction, 4, "bfloat16", "softmax", 1, 65536, 256, device), "sm_90")
        for direction in ("forward", "backward")
    ]
    return chosen


@pytest.mark.parametrize(
    "configuration, target",
    [pytest.param(c, t, id=f"{t}-{c.kernel}-{c.block_size}-{c.rows}") for c, t in _sample()],
)
def test_kernels_compile_and_fit(configuration, target):
    resources = check.measure(configuration, target)
    recorded = check.read_table().get(check.key(configuration, target), (0, 0, 0))
    assert check.problems(configuration, target, resources, allowed_spill=recorded[1]) == []


def test_the_table_holds_every_configuration_of_the_covering_list_within_the_limits():
    table = check.read_table()
    for target in check.DEVICES:
        for configuration in check.covering(target):
            registers, spilled, shared = table[check.key(configuration, target)]
            assert shared == configuration.shared_bytes
            resources = compiler.Resources(registers, spilled)
            assert check.problems(configuration, target, resources, allowed_spill=spilled) == []


def test_kernels_of_the_default_normalization_spill_nothing_where_they_have_run():
    table = check.read_table()
    for configuration in check.covering("sm_90"):
        if configuration.normalization == "softmax" and configuration.rows == "packed":
            if configuration.time_broadcast:
                continue  # logits that never change are kept over turns: eight bytes are spilled
            assert table[check.key(configuration, "sm_90")][1] == 0, configuration


def _results_as_matrices():
    """Kernels whose results leave as matrices, with chunks of few steps and of those that the rule takes."""
    device, found = check.DEVICES["sm_90"], []
    for family, m in (("bdlru", 2), ("bdlru", 3), ("bdlru", 4), ("hlru", 1), ("hlru", 4)):
        for shape in ("narrow", "ring"):
            options = {
                "normalization": "softmax",
                "rows": "packed",
                "time_broadcast": False,
                "gate_gradient": True,
            }
            tile = rule._candidate(family, "backward", m, "bfloat16", shape, device, **options)
            found += [tile, *(replace(tile, steps=steps) for steps in (1, 2, 3, 4, 5))]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(
    "tile", [pytest.param(t, id=f"{t.kernel}-{t.block_size}-{t.steps}") for t in _results_as_matrices()]
)
def test_every_result_is_narrowed_in_the_compiled_kernel(tile):
    """NVRTC 12.8 to 13.2 dropped some of BD-LRU m = 2 where rows waited as pairs (`RowWriter.kept`)."""
    text = compiler.compile_with_log(tile.source(), "compute_90")[0].decode(errors="replace")
    values = tile.steps * (1 if tile.one_row else tile.block_size)
    rows = (values, values * (tile.block_size + 1))  # of dL/dvalues and of dL/dlogits, two narrowed at once
    assert text.count("cvt.rn.bf16x2.f32") == sum(-(-count // 2) for count in rows)


@pytest.mark.parametrize("family", ["bdlru", "hlru"])
def test_the_kernel_that_sums_gradients_of_broadcast_logits_compiles(family):
    source = launch.gate_gradient_source(family, 4, "bfloat16", "sigmoid")
    for target in check.DEVICES:
        _, log = compiler.compile_with_log(source, target)
        assert compiler.resources(log).spill_bytes == 0


def test_argument_structures_match_their_python_side():
    for header, struct, names in (
        ("arguments.cuh", "Arguments", launch.ARGUMENT_FIELDS),
        ("gate_gradient.cuh", "GateGradientArguments", launch.GATE_GRADIENT_FIELDS),
    ):
        body = re.search(rf"struct {struct} {{(.*?)}};", compiler.headers()[header], re.S).group(1)
        body = re.sub(r"//.*", "", body)
        found = [
            name for line in body.split(";") for name in re.findall(r"\*?\s*(\w+)\s*(?:,|$)", line.strip())
        ]
        assert tuple(found) == names


def test_a_kernel_that_cannot_be_compiled_is_reported_with_log_and_source():
    with pytest.raises(compiler.CompilationError, match="no_such_thing") as caught:
        compiler.compile_with_log("no_such_thing;", "sm_90")
    assert "sm_90" in str(caught.value) and "error" in str(caught.value)


def test_a_second_compilation_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STATEMIX_CACHE_DIR", str(tmp_path))
    source = 'extern "C" __global__ void empty() {}'
    first = compiler.compile(source, "sm_90")
    monkeypatch.setattr(compiler, "compile_with_log", None)
    assert compiler.compile(source, "sm_90") == first
    stored = next((tmp_path / "cuda").iterdir())
    stored.write_bytes(b"damaged")
    assert cache.load(stored.name) is None


def test_a_device_newer_than_the_compiler_gets_intermediate_code():
    assert compiler.target((9, 0)) == "sm_90"
    assert compiler.target((99, 0)).startswith("compute_")
    code = compiler.compile_with_log('extern "C" __global__ void empty() {}', compiler.target((99, 0)))[0]
    assert b".target" in code
