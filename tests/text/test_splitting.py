"""A text that is cut in two loses nothing, and no character or line is cut that need not be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemix.text.documents import Part
from statemix.text.splitting import Splitter


def cut(text, share):
    """The pieces by split of the only document that there is."""
    part = Part("a.txt", len(text.encode()), "text", given=True)
    pieces = Splitter([part], share, "").split(part, text.encode())
    return {split: data for data, split in pieces}


@given(text=st.text(alphabet="aé€😀", min_size=1), share=st.floats(0.01, 0.99))
def test_a_text_of_one_line_is_cut_between_two_characters(text, share):
    pieces = cut(text, share)
    decoded = {split: data.decode("utf-8") for split, data in pieces.items()}
    train = decoded.get("train", "")
    assert train + decoded.get("validation", "") == text
    # The first character that begins no earlier than the share asks for is the first that is held out.
    first = int(len(text.encode()) * (1 - share))
    assert first <= len(train.encode()) < first + 4


@pytest.mark.parametrize(
    ("text", "held_out"),
    [
        ("0123456789\nabcdef\n", "abcdef\n"),  # a line that begins soon is waited for
        ("0123456789abcdefgh\n", "9abcdefgh\n"),  # where none does, the cut stands
    ],
)
def test_a_cut_waits_for_the_next_line_only_where_one_is_near(text, held_out):
    assert cut(text, 0.5)["validation"].decode() == held_out


@pytest.mark.parametrize(("files", "whole"), [(2, 1), (49, 1), (50, 0)])
def test_one_of_few_files_is_held_out_whole_and_none_of_many(files, whole):
    parts = [Part(f"{number}.txt", 8, "text") for number in range(files)]
    splitter = Splitter(parts, 0.1, "\n")
    documents = [b"%d" % number for number in range(20)]
    sides = [{split for d in documents for _, split in splitter.split(part, d)} for part in parts]
    assert sides.count({"validation"}) == whole
    assert all("train" in side for side in sides if side != {"validation"})
