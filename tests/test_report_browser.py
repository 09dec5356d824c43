"""A report as a browser shows it: from a file, offline, on a desktop and on a phone."""

import io
import shutil

import pytest
from PIL import Image
from small_report import CLASS_NAMES, PER_CLASS, small_run

from metric_jax import reports

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    runs = [small_run(), small_run("two" * 20, seed=1)]
    return reports.write(tmp_path_factory.mktemp("report"), runs)[0].as_uri()


@pytest.fixture
def visit(chromium, report):
    """A function that opens the report; afterwards nothing may have been complained about, or fetched."""
    seen, contexts = [], []

    def opened(**options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: seen.append(request.url))
        page.goto(report)
        page.wait_for_selector("#map .points path")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [each for each in seen if not each.startswith("data:")] == [report] * len(contexts)


def center_of_point(page, index):
    box = page.locator("#map .scatterlayer .trace").first.locator(".points path").nth(index).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def pixel(page):
    """The pixel in the middle of the image that is shown."""
    with Image.open(io.BytesIO(page.locator("#map-image").screenshot())) as image:
        return image.convert("RGB").getpixel((image.width // 2, image.height // 2))


def points(page):
    return page.locator("#map .scatterlayer .trace").first.locator(".points path").count()


def shown_name(page):
    return page.locator("#map-name").inner_text()


def assert_shows(page, index):
    """The page shows the image, the class and the name of the one with this index."""
    run = small_run()
    assert shown_name(page) == run.names[index]
    assert page.locator("#map-class").inner_text() == run.class_of(index)
    assert pixel(page) == pytest.approx([10 * index] * 3, abs=4)


def test_hover_shows_the_image(visit):
    page = visit(viewport={"width": 1200, "height": 1000})
    page.locator("#map").scroll_into_view_if_needed()
    for index in (0, 13, 23):
        page.mouse.move(*center_of_point(page, index))
        name = small_run().names[index]
        page.wait_for_function("name => document.getElementById('map-name').textContent === name", arg=name)
        assert_shows(page, index)


def test_tap_shows_the_image_and_the_page_fits_a_phone(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#map").scroll_into_view_if_needed()
    page.touchscreen.tap(*center_of_point(page, 5))
    page.wait_for_function("document.getElementById('map-name').textContent")
    assert_shows(page, 5)


def test_filter_hides_the_other_classes(visit):
    page = visit(viewport={"width": 1200, "height": 1000})
    assert points(page) == PER_CLASS * len(CLASS_NAMES)
    page.locator("summary", has_text="Classes").click()
    page.get_by_label("../x", exact=True).check()
    assert points(page) == PER_CLASS
    page.mouse.move(*center_of_point(page, 2))
    page.wait_for_function("document.getElementById('map-name').textContent")
    assert_shows(page, 2 * PER_CLASS + 2)  # "../x" is the third class
    page.get_by_label("</script>", exact=True).check()
    assert points(page) == 2 * PER_CLASS
    page.get_by_role("button", name="Show all").click()
    assert points(page) == PER_CLASS * len(CLASS_NAMES)


def test_keyboard_reaches_images_and_every_projection_draws(visit):
    page = visit(viewport={"width": 1200, "height": 1000})
    page.locator("#map").focus()
    assert_shows(page, 0)
    names = {shown_name(page)}
    for key in ["ArrowRight"] * 4 + ["ArrowDown"] * 4 + ["ArrowLeft"] * 4 + ["ArrowUp"] * 4:
        page.keyboard.press(key)
        names.add(shown_name(page))
    assert len(names) > 8
    index = small_run().names.index(shown_name(page))
    for option in range(page.locator("#map-projection option").count()):
        before = center_of_point(page, index)
        page.locator("#map-projection").select_option(index=option)
        assert points(page) == PER_CLASS * len(CLASS_NAMES)
        assert_shows(page, index)
        assert option == 0 or center_of_point(page, index) != before


def test_dark_is_dark_and_light_is_light(visit):
    page = visit(viewport={"width": 1200, "height": 1000})
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            """dark => [getComputedStyle(document.body).backgroundColor,
                        document.querySelector("#map .main-svg").style.background]
                       .every((colour) => (Number(colour.match(/\\d+/)[0]) < 60) === dark)""",
            arg=is_dark,
        )
        images = "[...document.querySelectorAll('picture img')]"
        for shows_its_light_source in page.evaluate(f"{images}.map((img) => img.currentSrc === img.src)"):
            assert shows_its_light_source != is_dark
