"""``statemix doctor``: it names what is there, what is missing and what to do, on any install."""

import importlib.util
import subprocess
import sys

import numba
import torch

import statemix
from statemix.cli import doctor
from statemix.ops import dispatch

WITHOUT_EXTRAS = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("rich", "tyro", "tensorboard", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from statemix.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_it_names_versions_backends_caches_and_devices(capsys):
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    for wanted in (statemix.__version__, torch.__version__, numba.__version__, "NVIDIA driver"):
        assert wanted in said
    for wanted in ("reference", "cpu", "cuda", "triton", "auto on cpu", "threads"):
        assert f"  {wanted} " in said


def test_what_cannot_run_comes_with_the_reason_of_the_operators(monkeypatch):
    monkeypatch.setattr(doctor, "unavailable_reason", lambda backend, *_, **__: f"no {backend} today")
    assert dict(doctor.backends())["cuda"] == "cannot run: no cuda today"


def test_families_are_told_apart_where_only_one_can_run(monkeypatch):
    monkeypatch.setattr(
        doctor, "unavailable_reason", lambda *_, family, **__: None if family == "hlru" else "not yet"
    )
    rows = dict(doctor.backends())
    assert rows["cpu, bdlru"] == "not yet" and rows["cpu, hlru"] == "runs"


def test_a_cpu_without_numba_is_a_trouble(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "numba" else real(name, *a)
    )
    dispatch._automatic.cache_clear()
    try:
        assert doctor.main([]) == 1
    finally:
        dispatch._automatic.cache_clear()
    said = capsys.readouterr().out
    assert "on cpu only the slow reference runs" in said
    assert "cannot run: numba is not installed; pip install numba" in said


def test_the_cache_of_the_gpu_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("STATEMIX_CACHE_DIR", str(tmp_path))
    assert str(tmp_path / "cuda") in dict(doctor.caches())["cuda"]
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "kernel").write_bytes(bytes(2**20))
    assert "1 files, 1.0 MiB" in dict(doctor.caches())["cuda"]


def test_the_cache_of_the_cpu_holds_kernels_once_they_ran():
    statemix.bdlru_scan(torch.zeros(1, 2, 1, 2, 3), torch.zeros(1, 2, 1, 3), backend="cpu")
    assert "MiB" in dict(doctor.caches())["cpu"]


def test_it_runs_on_a_bare_install_and_the_demo_says_what_it_needs():
    found = {
        name: subprocess.run(
            [sys.executable, "-c", WITHOUT_EXTRAS, name], capture_output=True, text=True, check=False
        )
        for name in ("doctor", "demo")
    }
    assert found["doctor"].returncode == 0, found["doctor"].stderr
    assert found["demo"].returncode == 2
    assert "pip install 'statemix[train]'" in found["demo"].stderr
    assert "Traceback" not in found["demo"].stderr


def test_portable_kernels_are_a_note_where_nothing_faster_could_run(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "backend_for", lambda *_, **__: "triton")
    monkeypatch.setattr(doctor, "devices", list)
    monkeypatch.setattr(doctor, "present_devices", lambda: [torch.device("xpu")])
    assert doctor.main([]) == 0
    assert "on xpu the portable Triton kernels run, slower than CUDA C++" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "present_devices", lambda: [torch.device("cuda", 0)])
    monkeypatch.setattr(torch.version, "hip", None)
    assert doctor.main([]) == 1


def test_the_cache_of_triton_is_where_its_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (tmp_path / "hash").mkdir()
    (tmp_path / "hash" / "kernel.cubin").write_bytes(bytes(2**20))
    assert dict(doctor.caches())["triton"] == f"{tmp_path} (1 files, 1.0 MiB)"
