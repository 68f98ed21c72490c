"""One thread: models this small only wait for each other's threads."""

import pytest

from statemix.training.devices import cpu_threads


@pytest.fixture(autouse=True)
def one_thread():
    with cpu_threads(1):
        yield
