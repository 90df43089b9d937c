from xml.etree import ElementTree

from model.evaluation.curves import Curves, Line, Panel, curve_lines, draw_svg, render
from parti_data.charts import Series, draw_curves

HOSTILE = "\x00<script>alert(1)</script> & \ud800"


def curves(count: int, category: str = "one") -> Curves:
    points = [(float(x), x / count) for x in range(count)]
    panel = Panel(category=category, num_pictures=8, lines=[Line(name=category, points=points)])
    return Curves(title=category, x_label=category, panels=[panel] * 4)


def test_any_names_make_a_picture_that_parses():
    drawn = ElementTree.fromstring(render(curves(3, HOSTILE)).decode())
    namespace = "{http://www.w3.org/2000/svg}"
    assert not list(drawn.iter(f"{namespace}script"))
    assert len(list(drawn.iter(f"{namespace}polyline"))) == 4
    titles = [element.text for element in drawn.iter(f"{namespace}text") if "8 pictures" in (element.text or "")]
    assert titles == [" <script>alert(1)</script> &  , 8 pictures"] * 4


def test_of_many_points_the_ends_and_the_middle_are_told():
    assert curve_lines(curves(4))[0] == "right, one, one: 0 at 0, 0.25 at 1, 0.5 at 2, 0.75 at 3"
    assert curve_lines(curves(16))[0] == "right, one, one: 0 at 0, 0.4375 at 7, 0.9375 at 15"


def test_no_name_reaches_a_terminal_as_a_command():
    assert curve_lines(curves(1, "\x1b[31mred\n"))[0] == "right,  [31mred ,  [31mred : 0 at 0"


def test_curves_without_a_category_are_drawn_as_nothing():
    drawn = ElementTree.fromstring(render(Curves(title="none", x_label="x", panels=[])).decode())
    assert [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")] == ["none"]


def test_a_chart_of_three_lines_has_a_look_and_a_name_for_each_and_says_what_is_told():
    chart = draw_curves("seed 0", [Series(name, [(1, 2.0), (2, 1.0)]) for name in ("plain", "code", "paper")])
    assert chart
    drawn = ElementTree.fromstring(draw_svg("x", [chart], "nats <a token>").decode())
    namespace = "{http://www.w3.org/2000/svg}"
    kinds = [f"line-{number}" for number in (1, 2, 3)]
    assert [line.get("class") for line in drawn.iter(f"{namespace}polyline")] == kinds
    style = next(drawn.iter(f"{namespace}style")).text or ""
    assert all(f"text.{kind}" in style for kind in kinds)
    texts = [element.text or "" for element in drawn.iter(f"{namespace}text")]
    assert "nats <a token>" in texts
    assert "share of right pictures" not in texts
