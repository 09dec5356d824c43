"""The playground as a browser shows it: hands move the points, and its numbers are the library's own."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from playwright import sync_api
from test_report_browser import CHROMIUM, FLAGS, pytestmark  # noqa: F401

import metric_jax as mj
from experiments import hard_examples

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "playground.html").as_uri()
POINTS = hard_examples.NAMES
DESKTOP = {"viewport": {"width": 1200, "height": 1000}}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
LEFT, TOP, WIDTH = -1.7, 2.2, 4.0  # of the plane that a picture shows


def contrastive(points, margin):
    a1, a2, c = points
    x, y = jnp.stack([a1, a1, a2]), jnp.stack([a2, c, c])
    return mj.contrastive_loss(x, y, jnp.array([True, False, False]), margin=margin).sum()


def triplet(points, margin):
    return mj.triplet_loss(*points, margin=margin)


LOSSES = {"contrastive": contrastive, "triplet": triplet}
GRADIENTS = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in LOSSES.items()}


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """A function that opens the page; afterwards nothing may have been complained about, or fetched."""
    seen, contexts = [], []

    def opened(**options):
        contexts.append(chromium.new_context(**{**DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: seen.append(request.url))
        page.goto(PAGE)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [each for each in seen if each != "data:,"] == [PAGE] * len(contexts)


def kept(page, loss):
    """What the page keeps of a loss, in full precision."""
    data = page.locator(f"#{loss}").evaluate("panel => ({...panel.dataset})")
    return {key: json.loads(value) for key, value in data.items()}


def number(text):
    return float(text.replace("−", "-"))


def numbers(cells):
    """The numbers that cells of a table show, ``[cells, 2]``."""
    return [[number(x) for x in cell.split(", ")] for cell in cells.all_inner_texts()]


def handle(page, loss, point):
    return page.locator(f"#{loss}").get_by_role("slider", name=point, exact=True)


def press(page, key, times):
    for _ in range(times):
        page.keyboard.press(key)


def assert_is_the_librarys(page):
    """Loss and gradients, as shown and as kept, are those of the library at the points and margins shown."""
    for loss, value_and_grad in GRADIENTS.items():
        panel, found = page.locator(f"#{loss}"), kept(page, loss)
        value, gradient = value_and_grad(jnp.array(found["points"], float), found["margin"])
        assert found["loss"] == pytest.approx(float(value), abs=1e-9)
        np.testing.assert_allclose(found["gradient"], gradient, atol=1e-9)
        assert number(panel.locator(".loss").inner_text()) == pytest.approx(float(value), abs=1e-4)
        np.testing.assert_allclose(numbers(panel.locator("tbody td:nth-child(2)")), gradient, atol=1e-4)
        for i, point in enumerate(POINTS):
            x, y = found["points"][i]
            where = handle(page, loss, point).get_attribute("aria-valuetext").replace("−", "-")
            assert where == f"x {x:.2f}, y {y:.2f}".replace(" 0.00", " 0")


def pixels(page, loss, place):
    """Where a place of the plane is on the screen."""
    box = page.locator(f"#{loss} svg").bounding_box()
    scale = (box["width"] - 2) / WIDTH  # less the border
    return box["x"] + 1 + (place[0] - LEFT) * scale, box["y"] + 1 + (TOP - place[1]) * scale


def drag(page, loss, start, end):
    page.mouse.move(*pixels(page, loss, start))
    page.mouse.down()
    page.mouse.move(*pixels(page, loss, end), steps=3)
    page.mouse.up()


def test_the_page_says_what_it_is_and_every_control_has_a_name(visit):
    page = visit()
    assert page.locator("html").get_attribute("lang") == "en"
    assert "metric_jax" in page.title()
    assert page.locator("h1").count() == 1
    for role, names in {
        "slider": [*POINTS, *POINTS, "Margin m", "Margin m", "Steps of gradient descent"],
        "checkbox": POINTS,
        "button": ["Hard negative", "Hard positive", "Hard positive, A2 held", "Solved", "Play"],
        "group": [
            *("Begin with", "Gradient descent may move", "Follow it, step by step"),
            *("The three points under contrastive loss", "The three points under triplet loss"),
        ],
    }.items():
        controls = page.get_by_role(role)
        named = [page.get_by_role(role, name=name, exact=True).count() for name in names]
        assert named == [names.count(name) for name in names]
        assert controls.count() - page.locator("details").count() * (role == "group") == len(names)


def test_the_page_begins_with_the_readmes_picture(visit, x64):
    page = visit()
    for preset, scenario in (("Hard positive", "hard positive"), ("Hard negative", "hard negative")):
        page.get_by_role("button", name=preset, exact=True).click()
        assert kept(page, "contrastive")["margin"] == hard_examples.CONTRASTIVE_MARGIN
        assert kept(page, "triplet")["margin"] == hard_examples.TRIPLET_MARGIN
        for loss in LOSSES:
            assert kept(page, loss)["points"] == [list(p) for p in hard_examples.SCENARIOS[scenario]]
        assert_is_the_librarys(page)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mouse_drags_c_in_either_picture(visit, x64, loss):
    page = visit()
    here = (0.2, 0.3)
    for there in ((0.3, 1.05), (-1.2, -0.6), (1.75, 0.4), (0.9, 0.1), (1.75, 0.0)):
        drag(page, loss, here, there)
        here = kept(page, loss)["points"][2]
        assert here == pytest.approx(there, abs=0.02)
        assert kept(page, "contrastive")["points"] == kept(page, "triplet")["points"]
        assert_is_the_librarys(page)
    assert kept(page, loss)["points"][:2] == [[0, 0], [1.75, 0]]


def test_a_point_stays_in_the_picture(visit, x64):
    page = visit()
    drag(page, "triplet", (1.75, 0), (5, 0))
    drag(page, "triplet", (0.2, 0.3), (0.2, 5))
    assert kept(page, "triplet")["points"][1:] == [[2.2, 0], [0.2, 2.1]]
    assert_is_the_librarys(page)
    assert "C is then off the picture" in page.locator("#triplet .verdict").inner_text()


def test_fingers_drag_points_and_beside_them_the_page(visit, x64):
    page = visit(**PHONE)
    page.locator("#triplet svg").scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)

    def fingers(kind, *places):
        at = [pixels(page, "triplet", place) for place in places]
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(at)]},
        )

    fingers("touchStart", (1.75, 0.0))
    fingers("touchStart", (1.75, 0.0), (0.2, 0.3))
    for t in (0.5, 1.0):
        fingers("touchMove", (1.75 - t, 0.8 * t), (0.2 - t, 0.3 + t))
    fingers("touchEnd")
    sync_api.expect(handle(page, "triplet", "C")).to_have_attribute("aria-valuetext", re.compile("y 1.[23]"))
    _, a2, c = kept(page, "triplet")["points"]
    assert a2 == pytest.approx([0.75, 0.8], abs=0.03)
    assert c == pytest.approx([-0.8, 1.3], abs=0.03)
    assert page.evaluate("scrollY") == before
    assert_is_the_librarys(page)
    fingers("touchStart", (-1.2, -0.8))
    for up in (0.4, 0.8, 1.2):
        fingers("touchMove", (-1.2, -0.8 + up))
    fingers("touchEnd")
    assert page.evaluate("scrollY") > before


def test_keys_move_a_point_even_onto_another(visit, x64):
    page = visit()
    handle(page, "contrastive", "C").focus()
    press(page, "Shift+ArrowUp", 3)
    assert kept(page, "contrastive")["points"][2] == [0.2, 0.33]
    press(page, "Shift+ArrowDown", 3)
    press(page, "ArrowDown", 6)
    press(page, "ArrowLeft", 4)
    assert kept(page, "contrastive")["points"] == [[0, 0], [1.75, 0], [0, 0]]
    assert_is_the_librarys(page)
    for loss in LOSSES:
        assert "C lies on A1" in page.locator(f"#{loss} .verdict").inner_text()
    page.keyboard.press("ArrowUp")
    handle(page, "triplet", "A2").focus()
    press(page, "ArrowLeft", 35)
    assert kept(page, "triplet")["points"] == [[0, 0], [0, 0], [0, 0.05]]
    assert_is_the_librarys(page)
    page.keyboard.press("ArrowUp")
    assert kept(page, "triplet")["points"] == [[0, 0], [0, 0.05], [0, 0.05]]
    assert_is_the_librarys(page)
    page.keyboard.press("ArrowDown")
    handle(page, "triplet", "C").focus()
    page.keyboard.press("ArrowDown")
    assert kept(page, "triplet")["points"] == [[0, 0]] * 3
    assert_is_the_librarys(page)
    assert kept(page, "triplet")["loss"] == hard_examples.TRIPLET_MARGIN


def test_keys_change_either_margin_and_listeners_are_told(visit, x64):
    page = visit()
    page.locator("#contrastive").get_by_role("slider", name="Margin m").focus()
    press(page, "ArrowRight", 7)
    page.locator("#triplet").get_by_role("slider", name="Margin m").focus()
    press(page, "ArrowLeft", 4)
    assert (kept(page, "contrastive")["margin"], kept(page, "triplet")["margin"]) == (1.35, 0.15)
    assert_is_the_librarys(page)
    sync_api.expect(page.get_by_role("status")).not_to_be_empty()
    told = page.get_by_role("status").inner_text()
    for loss in LOSSES:
        assert page.locator(f"#{loss} .loss").inner_text() in told
    page.keyboard.press("Home")
    assert kept(page, "triplet")["margin"] == 0
    assert_is_the_librarys(page)


@pytest.mark.parametrize("preset", ["Hard negative", "Hard positive", "Hard positive, A2 held", "Solved"])
def test_descent_ends_where_the_librarys_does(visit, x64, preset):
    page = visit()
    page.get_by_role("button", name=preset, exact=True).click()
    for a1_too in (False, True):
        page.get_by_role("checkbox", name="A1").set_checked(a1_too)
        free = jnp.array([page.get_by_role("checkbox", name=point).is_checked() for point in POINTS])
        assert free.tolist() == [a1_too, "held" not in preset, True]
        page.get_by_role("slider", name="Steps of gradient descent").focus()
        for key, step in (("End", 800), ("Home", 0), ("PageUp", 80)):
            page.keyboard.press(key)
            for loss in LOSSES:
                assert_arrives(page, loss, free, step)


def assert_arrives(page, loss, free, step):
    """After so many steps the page's points are where the library's are, and it shows the way up to there."""
    panel, found = page.locator(f"#{loss}"), kept(page, loss)
    function = at_margin(loss, found["margin"])
    points = hard_examples.descend(function, jnp.array(found["points"], float), free)[0][step]
    np.testing.assert_allclose(found["end"], points, atol=1e-9)
    assert found["endLoss"] == pytest.approx(float(function(points)), abs=1e-9)
    np.testing.assert_allclose(numbers(panel.locator("tbody td:nth-child(3)")), points, atol=1e-4)
    ways = panel.locator(".path").evaluate_all("all => all.map((way) => way.points.length)")
    assert ways == [step + 1] * 3


@functools.cache
def at_margin(loss, margin):
    """A function of the points alone; asked again, the same one, so that `descend` is compiled for it once."""
    return lambda points: LOSSES[loss](points, margin)


def test_the_blind_spot_is_told(visit):
    page = visit()
    page.get_by_role("button", name="Hard positive, A2 held").click()
    assert page.locator("#contrastive tbody tr").nth(2).locator("td").first.inner_text() == "0, 0"
    assert "gradient is exactly 0" in page.locator("#contrastive .verdict").inner_text()
    assert "A1 and A2 pay, and are held" in page.locator("#contrastive .verdict").inner_text()
    assert page.locator("#contrastive svg", has_text="gradient 0").count() == 1
    assert kept(page, "contrastive")["end"] == kept(page, "contrastive")["points"]
    assert page.locator("#triplet svg", has_text="gradient 0").count() == 0
    assert kept(page, "triplet")["endLoss"] == 0 < kept(page, "triplet")["loss"]
    page.get_by_role("button", name="Solved").click()
    assert page.locator("#triplet .loss").inner_text() == "0"
    assert kept(page, "contrastive")["loss"] > 0


def test_the_python_it_shows_computes_what_it_shows(visit, x64, capsys):
    page = visit()
    drag(page, "triplet", (0.2, 0.3), (-0.4, 0.7))
    page.locator("summary").click()
    names = {}
    exec(page.locator("#python").inner_text(), names)  # noqa: S102
    assert capsys.readouterr().out.startswith("contrastive (Array(")
    for loss in LOSSES:
        value, gradient = jax.value_and_grad(names[loss])(names["points"])
        assert kept(page, loss)["loss"] == pytest.approx(float(value), abs=1e-9)
        np.testing.assert_allclose(kept(page, loss)["gradient"], gradient, atol=1e-9)


def test_descent_plays_for_those_who_like_motion(visit):
    page = visit(reduced_motion="no-preference")
    page.get_by_role("button", name="Play").click()
    sync_api.expect(page.locator("#step")).to_have_value(re.compile("^[1-3]..$"))
    sync_api.expect(page.locator("#step")).to_have_value("800")
    assert not visit(reduced_motion="reduce").locator("#play").is_visible()


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_the_screen_in_light_and_dark(visit, options):
    page = visit(**options)
    page.locator("summary").click()
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == options["viewport"]["width"]
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(colour) < 60) == is_dark


def test_focus_is_seen_when_it_comes_by_keyboard(visit):
    page = visit()
    page.get_by_role("slider", name="Steps of gradient descent").focus()
    page.keyboard.press("Tab")
    ring = page.locator("#contrastive .handle").first.locator(".ring")
    assert ring.evaluate("ring => getComputedStyle(ring).visibility") == "visible"
    page.keyboard.press("ArrowRight")
    assert kept(page, "contrastive")["points"][0] == [0.05, 0]
