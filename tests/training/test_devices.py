"""What a run borrows of its process comes back, however the run ends."""

import pytest
import torch

from statemix.training.devices import cpu_threads, own_random_numbers


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_threads_that_no_machine_has_are_refused_before_pytorch_asks_for_them():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=r"processors.*got 100000"), cpu_threads(100_000):
        pass
    assert torch.get_num_threads() == before


def test_no_number_of_threads_leaves_them_as_they_are():
    before = torch.get_num_threads()
    with cpu_threads(0):
        assert torch.get_num_threads() == before


def test_random_numbers_of_a_run_are_its_seeds_and_those_around_it_go_on():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = torch.rand(1)
    with pytest.raises(KeyError), own_random_numbers(2, torch.device("cpu")):
        torch.testing.assert_close(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(2)))
        raise KeyError
    torch.testing.assert_close(torch.cat([first, torch.rand(1)]), expected)
