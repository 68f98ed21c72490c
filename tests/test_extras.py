"""A package that is missing is named with what brings it."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from statemix.extras import EXTRA_OF, import_extra


def test_every_package_stands_in_the_extra_that_is_named_for_it():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRA_OF.items():
        found = [re.split(r"[>=<\[]", wanted)[0] for wanted in project["optional-dependencies"][extra]]
        assert package in found, (package, extra)


@pytest.mark.parametrize(
    ("module", "otherwise", "said"),
    [
        ("ray.tune", "use one process", "the sweep needs ray, but ray is not installed; pip install "
         "'statemix[cluster]', or use one process"),
        ("fla", "", "the sweep needs fla, but fla is not installed; pip install fla"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, module, otherwise, said):
    for name in (module, module.partition(".")[0]):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(said)}$"):
        import_extra(module, "the sweep", otherwise=otherwise)


def test_what_is_there_is_imported():
    assert import_extra("json", "this test").loads("[1]") == [1]
