"""The report: what is escaped, what is placed where, and that nothing is loaded from anywhere."""

import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statemix.analysis.report import (
    Bar,
    Column,
    Curve,
    Dots,
    Html,
    Page,
    Section,
    accuracy_by_length,
    bars,
    configs,
    decay,
    figure,
    learning_curves,
    matrix,
    render,
    sample,
    table,
    tag,
    text,
    unit_circle,
    verdicts,
)
from statemix.analysis.report.figures import smoothed, thinned
from statemix.analysis.report.state_tracking import percent
from statemix.analysis.report.svg import Plot, Scale

NASTY = "<script>alert('1')</script> & \"quotes\""


def parsed(piece):
    """As strict as XML: a tag left open or a bare & raises."""
    return ElementTree.fromstring(f"<all>{piece}</all>")


def all_figures():
    curve = Curve(name=NASTY, series=1, x=[1, 2, 3], y=[0.2, math.nan, 1.0])
    return {
        "learning_curves": learning_curves([curve], y_label=NASTY, levels=[(0.5, NASTY)]),
        "accuracy_by_length": accuracy_by_length([curve], trained_at=2, chance=0.1),
        "decay": decay([curve], y_label=NASTY),
        "bars": bars([Bar(name=NASTY, value=1.5, series=2)], unit=NASTY),
        "unit_circle": unit_circle(
            [Dots(name=NASTY, series=1, eigenvalues=torch.tensor([1j, 0.5 + 0j]))], title=NASTY
        ),
        "matrix": matrix(torch.eye(3), title=NASTY),
        "table": table([Column(title=NASTY)], [[NASTY]], caption=NASTY, series=[1]),
        "verdicts": verdicts([(NASTY, NASTY, True)]),
        "figure": figure(text(NASTY), title=NASTY, caption=NASTY),
        "configs": configs({NASTY: {NASTY: NASTY}}),
        "sample": sample(NASTY),
    }


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_text_comes_back_as_it_was_written(written):
    assert (parsed(tag("p", written, title=written)).find("p").text or "") == written
    assert parsed(tag("p", title=written)).find("p").get("title") == written


def test_finished_html_is_not_escaped_twice():
    assert render(tag("b", "a & b"), None, ["<", Html("<br/>")]) == "<b>a &amp; b</b>&lt;<br/>"


@pytest.mark.parametrize("name", all_figures())
def test_no_element_lets_text_become_markup(name):
    piece = all_figures()[name]
    assert parsed(piece).find(".//script") is None
    assert "<script" not in piece
    assert "alert" in piece


def page(**changes):
    body = render(*all_figures().values())
    fields = {"title": NASTY, "lead": NASTY, "facts": [(NASTY, NASTY)]}
    return Page(**{**fields, "sections": [Section(title="One & two", body=body)], **changes})


def test_a_page_is_well_formed_and_links_lead_to_its_sections():
    sections = [Section(title=title, body=text("x")) for title in ("In short", "What, then?", "More")]
    tree = ElementTree.fromstring(page(sections=sections).html().removeprefix("<!doctype html>"))
    targets = [a.get("href") for a in tree.iter("a")]
    assert targets == [f"#{s.get('id')}" for s in tree.iter("section")]
    assert targets == ["#in-short", "#what-then", "#more"]


def test_a_page_loads_nothing():
    class Loads(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found = []

        def handle_starttag(self, tag, attrs):
            named = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}
            self.found += [f"{tag} {key}" for key, _ in attrs if key in named or key.startswith("on")]
            if tag in {"script", "link", "iframe", "object", "embed", "base"}:
                self.found.append(tag)
            self.found += [f"{tag} {v}" for k, v in attrs if k == "href" and not v.startswith("#")]

    reader = Loads()
    written = page().html()
    reader.feed(written)
    assert not reader.found
    assert not re.search(r"@import|url\(", written)


def test_two_sections_of_one_title_are_refused():
    same = [Section(title="Same", body=text("x"))] * 2
    with pytest.raises(ValueError, match="titles must differ"):
        page(sections=same).html()


def test_every_series_and_theme_has_its_colours():
    style = page().html()
    dark = style[style.index("prefers-color-scheme: dark") :]
    for number in range(1, 8):
        assert f".s{number} {{ --c: var(--series-{number})" in style
        assert f"--series-{number}: #" in dark


def test_writing_replaces_a_page_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "report.html"
    page(title="first").write(path)
    page(title="second").write(path)
    assert "second" in path.read_text("utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_linear_axis_holds_its_values_between_round_ticks(low, width):
    scale = Scale.linear(low, low + width)
    values = [value for value, _ in scale.ticks]
    assert scale.low <= low + 1e-6 * width and scale.high >= low + width - 1e-6 * width
    assert 2 <= len(values) <= 8
    assert len({text for _, text in scale.ticks}) == len(values), scale.ticks


@pytest.mark.parametrize(
    ("option", "words"), [({"chance": 0.1}, "guessing"), ({"trained_at": 2}, "trained at this length")]
)
def test_accuracy_by_length_marks_what_is_asked_for_and_no_more(option, words):
    curve = Curve(name="bdlru", series=1, x=(2, 4), y=(1.0, 0.5))
    assert words in accuracy_by_length([curve], **option)
    assert words not in accuracy_by_length([curve])


def test_a_tight_axis_ends_where_the_values_end():
    scale = Scale.linear(0, 512, count=6, tight=True)
    assert (scale.low, scale.high) == (0, 512)
    assert [text for _, text in scale.ticks] == ["0", "100", "200", "300", "400", "500"]
    # 3 * 0.1 lies a rounding above 0.3, and is a tick of it all the same.
    assert [text for _, text in Scale.linear(0, 0.3, count=3, tight=True).ticks] == [
        "0.0",
        "0.1",
        "0.2",
        "0.3",
    ]


def test_a_logarithmic_axis_gives_equal_ratios_equal_room():
    scale = Scale.at_values([32, 128, 512])
    assert scale.at(128) - scale.at(32) == pytest.approx(scale.at(512) - scale.at(128))


def test_powers_of_ten_are_written_out_near_one():
    def texts(low, high):
        return [text for _, text in Scale.powers(low, high).ticks]

    assert texts(1e-6, 1e-3) == ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³"]
    assert texts(0.01, 1e3) == ["0.01", "0.1", "1", "10", "100", "10³"]


def test_an_axis_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="low must be below high"):
        Scale(low=1, high=1, ticks=())
    with pytest.raises(ValueError, match="start above 0"):
        Scale(low=0, high=1, ticks=(), logarithmic=True)


def test_larger_values_stand_higher_and_further_right():
    plot = Plot(Scale.linear(0, 10), Scale.percent(), x_label="x", y_label="y")
    x_low, y_low = plot.place(0, 0)
    x_high, y_high = plot.place(10, 1)
    assert x_low < x_high and y_low > y_high
    assert x_low > 0 and x_high < plot.width
    assert y_high > 0 and y_low < plot.height


def test_names_of_close_levels_do_not_cover_each_other():
    plot = Plot(Scale.linear(0, 10), Scale.linear(0, 8), x_label="x", y_label="y")
    plot.levels([(2.11, "gzip"), (1.86, "xz"), (4.6, "unigram")])
    notes = [t for t in parsed(plot.svg("t")).iter("text") if t.get("class") == "note"]
    heights = sorted(float(t.get("y")) for t in notes)
    assert all(b - a >= 14 for a, b in pairwise(heights))


def test_eigenvalues_stand_where_they_belong():
    values = torch.tensor([1 + 0j, 1j, -1 + 0j])
    drawing = parsed(unit_circle([Dots(name="a", series=1, eigenvalues=values)], marks=[1j]))
    circle = next(c for c in drawing.iter("circle") if c.get("class") == "disc")
    middle, radius = float(circle.get("cx")), float(circle.get("r"))
    dots = [
        (float(c.get("cx")), float(c.get("cy"))) for c in drawing.iter("circle") if "dot" in c.get("class")
    ]
    wanted = [(middle + radius, middle), (middle, middle - radius), (middle - radius, middle)]
    assert dots == [pytest.approx(place) for place in wanted]
    ring = next(c for c in drawing.iter("circle") if c.get("class") == "ring")
    assert (float(ring.get("cx")), float(ring.get("cy"))) == pytest.approx(dots[1])


def test_a_bar_is_as_long_as_its_value():
    drawing = parsed(
        bars([Bar(name="a", value=1.0, series=1), Bar(name="b", value=4.0, series=2)], unit="bits")
    )
    short, long = (float(r.get("width")) for r in drawing.iter("rect"))
    assert long == pytest.approx(4 * short)


def test_a_stronger_coefficient_is_a_stronger_colour():
    cells = parsed(matrix(torch.tensor([[0.0, 1.0], [0.5, 0.25]]))).iter("rect")
    strengths = [float(cell.get("fill-opacity")) for cell in cells]
    assert strengths[0] < strengths[3] < strengths[2] < strengths[1] == 1


def test_titles_in_any_script_have_anchors_of_their_own():
    titles = ("Längen", "Lüngen", "長さ", "状態")
    page = Page(title="t", lead="l", sections=[Section(title=t, body=Html("")) for t in titles])
    assert [f'href="#{t.lower()}"' in page.html() for t in titles] == [True] * 4


def test_the_trained_length_stands_where_it_belongs_beside_longer_ones():
    curve = Curve(name="bdlru", series=1, x=(32, 128), y=(1.0, 0.5))
    drawing = accuracy_by_length([curve], trained_at=8)
    line = next(
        e for e in parsed(drawing).iter("line") if e.get("x1") == e.get("x2") and e.get("class") == "level"
    )
    marks = [float(c.get("cx")) for c in parsed(drawing).iter("circle") if c.get("r") == "4"][-2:]
    # 8 to 32 and 32 to 128 are equal ratios.
    assert marks[0] - float(line.get("x1")) == pytest.approx(marks[1] - marks[0], abs=0.1)


@pytest.mark.parametrize(
    "drawing",
    [
        lambda bad: unit_circle([Dots(name="a", series=1, eigenvalues=torch.tensor([complex(bad, 0), 1j]))]),
        lambda bad: matrix(torch.tensor([[bad, 1.0], [0.5, 0.25]])),
        lambda bad: bars([Bar(name="a", value=bad, series=1), Bar(name="b", value=4.0, series=2)], unit="u"),
        lambda bad: learning_curves(
            [Curve(name="a", series=1, x=[0, bad], y=[1, 2])], y_label="y", levels=[(bad, "l")]
        ),
    ],
    ids=["unit_circle", "matrix", "bars", "learning_curves"],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_drawing_has_a_place_or_a_size_that_is_no_number(drawing, bad):
    for element in parsed(drawing(bad)).iter():
        for value in element.attrib.values():
            assert not re.search(r"\b(nan|inf)\b", value), element.attrib


def test_a_value_that_is_no_number_leaves_no_trace():
    curve = Curve(name="a", series=1, x=[0, 1, 2], y=[0.5, math.nan, math.inf])
    assert "nan" not in learning_curves([curve], y_label="y") and "inf" not in learning_curves(
        [curve], y_label="y"
    )


@pytest.mark.parametrize(
    ("values", "drawn"), [([1.0, 1e-3, 1e-7, 1e-9], 3), ([1.0, 0.1, 0.01, 0.001], 4)], ids=["below", "above"]
)
def test_a_decay_is_drawn_until_it_is_first_below_the_floor(values, drawn):
    curve = Curve(name="a", series=1, x=[0, 1, 2, 3], y=values)
    (line,) = parsed(decay([curve], y_label="y", floor=1e-6)).iter("polyline")
    assert len(line.get("points").split(" ")) == drawn


def test_no_curves_still_make_a_figure():
    parsed(learning_curves([], y_label="y"))
    parsed(decay([], y_label="y"))
    parsed(bars([], unit="u"))
    parsed(accuracy_by_length([]))


def test_values_that_are_all_alike_have_an_axis_however_large_they_are():
    for value in (0.0, 3.0, -1e17, 1e300):
        assert Scale.linear(value, value).low < value < Scale.linear(value, value).high


@given(st.integers(0, 3000))
def test_thinning_keeps_the_ends_and_few_points(count):
    points = [(float(i), float(i)) for i in range(count)]
    kept = thinned(points, 100)
    assert len(kept) <= min(count, 101)
    assert not points or (kept[0], kept[-1]) == (points[0], points[-1])


def test_smoothing_keeps_a_line_straight_and_its_start():
    points = [(float(i), 2.0 * i) for i in range(200)]
    smooth = smoothed(points, share=0.1)
    assert smooth[0] == points[0]
    assert smooth[:190] == [pytest.approx(p) for p in points[:190]]
    noisy = [(float(i), float(i % 2)) for i in range(200)]
    assert all(0.4 < y < 0.6 for _, y in smoothed(noisy, share=0.1)[20:])


def test_only_a_whole_share_is_called_a_hundred_percent():
    assert [percent(s) for s in (1.0, 0.99999, 0.9994, 0.5, 0.0)] == [
        "100 %",
        "99.9 %",
        "99.9 %",
        "50.0 %",
        "0.0 %",
    ]


def test_what_has_no_shape_on_a_page_becomes_a_dot():
    assert sample("a\x00b\n\tc\x1b") == '<pre class="wrap">a·b\n\tc·</pre>'


def test_a_row_that_does_not_fit_its_table_is_refused():
    with pytest.raises(ValueError, match="1 cells; got 2"):
        table([Column(title="one")], [["a", "b"]])


def test_a_curve_of_unequal_halves_is_refused():
    with pytest.raises(ValueError, match="'a' has 2 x and 1 y"):
        Curve(name="a", series=1, x=[1, 2], y=[1])
