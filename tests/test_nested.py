"""Where two configs differ, leaf by leaf."""

from statemix.nested import differences


def test_what_only_one_of_the_two_has_is_a_difference():
    assert differences({"a": {"b": 1}}, {"a": {"c": 1}}) == ["a.b: 1 and None", "a.c: None and 1"]


def test_a_number_and_its_name_are_told_apart():
    assert differences({"a": 1}, {"a": "1"}) == ["a: 1 and '1'"]


def test_what_is_free_may_differ():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 4}}, free={"a.b"}) == ["a.c: 2 and 4"]
