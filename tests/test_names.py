"""What is said of a name that nobody knows."""

from hypothesis import given
from hypothesis import strategies as st

from statemix.names import nearest, unknown_name

NAMES = ["recall", "noisy-recall", "copying", "selective-copying", "parity"]


def test_names_that_hold_what_was_written_come_before_those_that_look_like_it():
    assert nearest("call", NAMES) == ["recall", "noisy-recall"]
    assert nearest("coping", NAMES, most=1) == ["copying"]


def test_nothing_is_near_where_nothing_is_alike():
    assert nearest("xyz", NAMES, cutoff=0.6) == [] and nearest(7, NAMES, cutoff=0.6) == []
    assert "nearest: recall, noisy-recall, copying, selective-copying, parity" in str(
        unknown_name("task", "", NAMES)
    )


@given(st.text(), st.integers(1, 4))
def test_no_more_are_named_than_asked_for_and_none_twice(name, most):
    found = nearest(name, NAMES, most=most)
    assert len(found) == len(set(found)) <= most and set(found) <= set(NAMES)


def test_a_rule_can_stand_in_the_place_of_a_list():
    said = str(unknown_name("group", "S", ["S3", "A5"], all_of_them="Sn and An are known"))
    assert said == "no group 'S'; nearest: S3; Sn and An are known"
