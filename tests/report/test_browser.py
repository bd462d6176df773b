"""The page in a browser: Chromium without a window, where there is one."""

import contextlib
import json
import shutil
import time

import pytest

from dpfinjax.report import write_html
from tests.report.test_page import STUDIES

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for found in map(shutil.which, NAMES) if found), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

SHOWN = """([chart, model]) => document.querySelector(`[data-chart="${chart}"] .live`)
    .data.filter((trace) => trace.meta.model === model && trace.visible).length"""
LINE = """() => document.querySelector('[data-chart="frontier"] .live')
    .data.find((trace) => trace.meta.models?.includes("dpsgd-4")).y.map((y) => y === null)"""
CHOSEN = """() => [...new Set(document.querySelector('[data-chart="roc"] .live').data
    .filter((trace) => trace.visible).map((trace) => trace.meta.attack).filter(Boolean))]"""
LOOK = """() => [getComputedStyle(document.body).backgroundColor,
    document.querySelector('[data-chart="frontier"] .live').layout.font.color]"""
FOCUSED = """() => {
    const at = document.activeElement, style = getComputedStyle(at);
    if (at !== document.body && style.outlineStyle === "none") throw at.outerHTML;
    return at.tagName + (at.type ?? "");
}"""


@pytest.fixture(scope="module")
def browser():
    """A browser for the tests of this file."""
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The addresses of the page of a whole study and of one whose strings are hostile."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("whole", "hostile", "without models"):
        write_html(folder / f"{name}.html", STUDIES[name])
    return {path.stem: path.as_uri() for path in folder.iterdir()}


@contextlib.contextmanager
def opened(browser, address, **options):
    """Opens a page; what it complains about or asks for is an error."""
    troubles = []

    def heard(message):
        if message.type in ("error", "warning"):
            troubles.append(message.text)

    def asked(request):
        if not request.url.startswith(("file:", "data:")):
            troubles.append(request.url)

    context = browser.new_context(**options)
    page = context.new_page()
    page.on("console", heard)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", asked)
    page.goto(address)
    if options.get("java_script_enabled", True):
        page.wait_for_selector(".drawn", state="attached")
    yield page
    context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def page(browser, files):
    """The whole study's page, for tests that leave it as they found it."""
    with opened(browser, files["whole"]) as found:
        yield found


def column(page, table, place):
    """The texts of one column."""
    return page.locator(f"#{table} tbody tr > :nth-child({place})").all_inner_texts()


def becomes(page, expression, argument, expected):
    """Asserts what an expression is once the page has drawn; its policy forbids waiting within."""
    limit = time.monotonic() + 10
    while page.evaluate(expression, argument) != expected and time.monotonic() < limit:
        page.wait_for_timeout(20)
    assert page.evaluate(expression, argument) == expected


def check(page, model, checked):
    """Shows or hides a model as a user does."""
    if not page.locator(".toggles").evaluate("(details) => details.open"):
        page.locator(".toggles summary").click()
    page.locator(f'.toggles input[value="{model}"]').set_checked(checked)


def heads_of(page, name):
    """All headers of the results, and the place of one among them."""
    heads = page.locator("#results thead th")
    return heads, [text.strip() for text in heads.all_inner_texts()].index(name)


def states(heads):
    """How each column is sorted."""
    return heads.evaluate_all("all => all.map((head) => head.ariaSort)")


@pytest.mark.parametrize("name", ["whole", "hostile", "without models"])
def test_a_page_loads_without_a_complaint_and_draws_every_chart(name, browser, files):
    with opened(browser, files[name]) as page:
        for key in json.loads(page.locator("#charts").text_content())["charts"]:
            assert page.locator(f'[data-chart="{key}"] .live svg.main-svg').first.is_visible()
        assert not page.locator(".static").first.is_visible()


def test_an_injected_script_does_not_run(browser, files):
    page = browser.new_page()
    page.goto(files["hostile"])
    with pytest.raises(sync_api.Error, match="Content Security Policy"):
        page.add_script_tag(content="window.injected = 1")
    assert page.evaluate("window.injected === undefined")
    page.close()


def test_the_table_sorts_by_keyboard_and_says_so(page):
    heads, place = heads_of(page, "epsilon")
    heads.nth(place).get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert states(heads)[place] == "descending"
    assert column(page, "results", place + 1)[:3] == ["infinite", "26", "11.2"]
    page.keyboard.press("Enter")
    assert states(heads)[place] == "ascending"
    epsilons = [text.replace("infinite", "inf") for text in column(page, "results", place + 1)]
    assert epsilons == sorted(epsilons, key=float)
    heads.nth(0).get_by_role("button").click()
    assert states(heads) == ["ascending"] + ["none"] * (heads.count() - 1)
    labels = column(page, "results", 1)
    assert labels == sorted(labels, key=str.lower)


def test_what_is_missing_stays_at_the_end_of_a_sorted_column(page):
    heads, place = heads_of(page, "AUC")
    known = sum(bool(model.attacks) for model in STUDIES["whole"].models)
    for _ in range(2):
        heads.nth(place).get_by_role("button").click()
        missing = ["none" in text for text in column(page, "results", place + 1)]
        assert missing == sorted(missing)
        assert missing.count(False) == known


@pytest.mark.parametrize("chart", ["frontier", "audits", "roc", "recognition"])
def test_a_toggle_hides_and_shows_a_models_traces(chart, page):
    before = page.evaluate(SHOWN, [chart, "dpsgd-4"])
    others = page.evaluate(SHOWN, [chart, "dpsgd-8"])
    assert before > 0
    check(page, "dpsgd-4", False)
    becomes(page, SHOWN, [chart, "dpsgd-4"], 0)
    assert page.evaluate(SHOWN, [chart, "dpsgd-8"]) == others
    check(page, "dpsgd-4", True)
    becomes(page, SHOWN, [chart, "dpsgd-4"], before)


def test_the_line_through_a_family_leaves_out_a_hidden_model(page):
    assert page.evaluate(LINE) == [False] * 5
    check(page, "dpsgd-4", False)
    becomes(page, LINE, None, [False, False, False, True, False])
    check(page, "dpsgd-4", True)
    becomes(page, LINE, None, [False] * 5)


def test_all_models_can_be_hidden_and_shown_at_once(page):
    check(page, "dpsgd-4", True)
    page.get_by_role("button", name="Hide all").click()
    becomes(page, SHOWN, ["roc", "baseline"], 0)
    assert page.locator(".toggles input:checked").count() == 0
    page.get_by_role("button", name="Show all").click()
    becomes(page, SHOWN, ["roc", "baseline"], 1)


def test_the_choice_of_an_attack_shows_its_curves_and_bounds_can_be_added(page):
    assert page.evaluate(CHOSEN) == ["LiRA"]
    page.locator("#attack").select_option("RMIA")
    becomes(page, CHOSEN, None, ["RMIA"])
    assert page.evaluate(SHOWN, ["roc", "dpsgd-1"]) == 1
    page.get_by_label("bounds of the privacy statements").check()
    becomes(page, SHOWN, ["roc", "dpsgd-1"], 2)
    page.get_by_label("bounds of the privacy statements").uncheck()
    page.locator("#attack").select_option("")
    becomes(page, CHOSEN, None, ["LiRA"])


def test_dark_mode_changes_page_and_charts_at_once(page):
    assert page.evaluate(LOOK) == ["rgb(255, 255, 255)", "#1a202c"]
    page.emulate_media(color_scheme="dark")
    becomes(page, LOOK, None, ["rgb(17, 21, 28)", "#edf2f7"])
    page.emulate_media(color_scheme="light")
    becomes(page, LOOK, None, ["rgb(255, 255, 255)", "#1a202c"])


def test_print_shows_static_charts_on_white_and_unfolds_what_is_folded(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert all(svg.is_visible() for svg in page.locator(".static > svg").all())
    assert not page.locator(".live").first.is_visible()
    assert not page.locator("nav").is_visible()
    background = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#settings details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#settings details[open]").count() == 0
    page.emulate_media(media="screen", color_scheme="light")


def test_without_scripts_static_charts_are_shown_and_no_dead_control(browser, files):
    with opened(browser, files["whole"], java_script_enabled=False) as page:
        assert page.locator(".static > svg").count() == 4
        assert all(svg.is_visible() for svg in page.locator(".static > svg").all())
        for dead in ("button", "input", "select", ".live"):
            assert not any(element.is_visible() for element in page.locator(dead).all())


@pytest.mark.parametrize("name", ["whole", "hostile"])
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_on_a_narrow_screen_only_tables_scroll_sideways(name, scripts, browser, files):
    narrow = {"viewport": {"width": 360, "height": 740}, "java_script_enabled": scripts}
    with opened(browser, files[name], **narrow) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator(".scroll").first.evaluate("(box) => box.scrollWidth") > 360


def test_every_control_is_reached_by_tab_and_seen_when_focused(browser, files):
    with opened(browser, files["whole"]) as page:
        page.keyboard.press("Tab")
        skip = page.locator(".skip")
        assert skip.evaluate("(link) => link === document.activeElement")
        assert skip.bounding_box()["x"] >= 0
        page.locator(".toggles summary").click()
        reached = set()
        for _ in range(100):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(FOCUSED))
    controls = {"A", "SUMMARY", "INPUTcheckbox", "BUTTONbutton", "SELECTselect-one", "PRE", "DIV"}
    assert controls <= reached
