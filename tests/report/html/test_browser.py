"""The page in a real browser: no request, no sideways scroll, controls that work, complete without script."""

import json
import re
import shutil
import time

import pytest

from normprobe.report import write_report
from tests.helpers.report_models import finding, findings_of, record, stack

BLANK = "about:blank"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on the path: the page is not opened"
)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: the page is not opened"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(service=webdriver.ChromeService(DRIVER), options=options)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    found = findings_of(
        finding(
            "layers.1.norm", severity="warning", layers_affected=2, affected="layers.1.norm; layers.2.norm"
        ),
        finding("layers.0.up"),
    )
    return write_report(record(stack(5, unused=1)), found, tmp_path_factory.mktemp("page")).as_uri()


@pytest.fixture
def opened(browser, address):
    """The page, freshly opened at 1200 pixels in light colours with script."""
    return lambda **how: visit(browser, address, **how)


def visit(browser, address, *, width=1200, theme="light", script=True, place=""):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    scheme = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": scheme})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    browser.get(BLANK)
    for log in ("performance", "browser"):
        browser.get_log(log)
    browser.get(address + place)
    if address != BLANK:
        wait_for(browser, address + place, script=script)
    return browser


def wait_for(browser, address, *, script):
    """Wait until the page of this address is there to its last element, and its script has run.

    On a busy machine the driver answers while the blank page, or half of the new one, is still there; and
    `document.readyState` is never complete where script is switched off.
    """
    whole = f"location.href === {json.dumps(address)} && document.querySelector('footer + script') !== null"
    # The script runs in one go, and shows this button first.
    ready = f"{whole} && !document.querySelector('.theme').hidden" if script else whole
    end = time.monotonic() + 30
    answer = ask(browser, ready)
    while answer["result"].get("value") != "true":
        assert time.monotonic() < end, f"{address} is not there after 30 s: {answer}"
        time.sleep(0.05)
        answer = ask(browser, ready)


def ask(browser, expression):
    """What the browser says to an expression, also where the page's own script is switched off."""
    asked = {"expression": f"JSON.stringify({expression})", "returnByValue": True}
    return browser.execute_cdp_cmd("Runtime.evaluate", asked)


def evaluate(browser, expression):
    """The value of an expression."""
    answer = ask(browser, expression)
    assert "exceptionDetails" not in answer, answer
    return json.loads(answer["result"]["value"])


def test_no_request_and_no_complaint(opened, address):
    browser = opened()
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {address}
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 500, 1200])
def test_the_page_never_scrolls_sideways(opened, width, theme):
    browser = opened(width=width, theme=theme)
    assert evaluate(browser, "document.documentElement.scrollWidth") <= width
    assert (
        evaluate(browser, "document.querySelector('.chart > svg').getBoundingClientRect().width") >= 760 - 26
    )


def test_text_is_as_readable_as_the_variables_say(opened):
    browser = opened(theme="dark")
    assert evaluate(browser, "getComputedStyle(document.body).backgroundColor") == "rgb(22, 21, 19)"
    assert evaluate(browser, "getComputedStyle(document.querySelector('h1')).color") == "rgb(240, 238, 232)"


def test_the_switch_changes_the_theme(opened):
    browser = opened(theme="dark")
    colours = []
    for _ in range(3):
        colours.append(evaluate(browser, "getComputedStyle(document.body).backgroundColor"))
        evaluate(browser, "document.querySelector('.theme').click() || 0")
    assert colours == ["rgb(22, 21, 19)", "rgb(251, 250, 247)", "rgb(22, 21, 19)"]


def test_headers_sort_and_nan_sorts_last(opened):
    browser = opened()
    shown = "(c => c.dataset.v || c.textContent)(r.cells[8])"
    order = f"[...document.querySelectorAll('#layers tbody tr')].map(r => {shown})"
    press = "document.querySelectorAll('#layers th')[8].querySelector('button').click() || 0"
    mark = "document.querySelectorAll('#layers th')[8].getAttribute('aria-sort')"
    cell = "document.querySelector('#layers tbody tr').cells[8]"
    evaluate(browser, f"delete {cell}.dataset.v && ({cell}.textContent = '–')")
    for expected, reverse in (("descending", True), ("ascending", False)):
        evaluate(browser, press)
        values = evaluate(browser, order)
        assert evaluate(browser, mark) == expected
        assert values[-1] == "–"
        numbers = [float(v) for v in values[:-1]]
        assert numbers == sorted(numbers, reverse=reverse)
    evaluate(browser, "document.querySelectorAll('#layers th')[1].querySelector('button').click() || 0")
    names = evaluate(
        browser, "[...document.querySelectorAll('#layers tbody tr')].map(r => r.cells[1].textContent)"
    )
    assert names == sorted(names)


def test_search_and_kind_filter(opened):
    browser = opened()
    rows = "[...document.querySelectorAll('#layers tbody tr')].filter(r => !r.hidden)"
    shown = f"{rows}.map(r => r.cells[1].textContent)"
    change = "e => {{ e.value = '{}'; e.dispatchEvent(new Event('input')); return 0; }}"
    type_in = f"({change})(document.querySelector('#{{}}'))"
    evaluate(browser, type_in.format("LAYERS.1.", "search"))
    assert evaluate(browser, shown) == ["layers.1.norm", "layers.1.up", "layers.1.down"]
    assert evaluate(browser, "document.querySelector('#count').textContent") == "3 of 16 layers"
    evaluate(browser, type_in.format("layer_norm", "kind"))
    assert evaluate(browser, shown) == ["layers.1.norm"]


def test_a_link_opens_its_panel(opened):
    browser = opened()
    is_open = "[...document.querySelectorAll('details.panel')].map(d => d.open)"
    assert not any(evaluate(browser, is_open))
    evaluate(browser, "document.querySelector('.finding .body a').click() || 0")
    target = evaluate(browser, "location.hash.slice(1)")
    assert re.fullmatch(r"panel-\d+", target)
    assert evaluate(browser, f"document.getElementById('{target}').open")
    evaluate(browser, f"document.getElementById('{target}').open = false")
    evaluate(browser, "document.querySelector('.finding .body a').click() || 0")
    assert evaluate(browser, f"document.getElementById('{target}').open")
    browser = opened(place=f"#{target}")
    assert evaluate(browser, is_open).count(True) == 1


def test_complete_without_script(opened):
    seen = "[...document.querySelectorAll('main section')].map(s => s.id)"
    with_script = evaluate(opened(), seen)
    browser = opened(script=False)
    assert evaluate(browser, seen) == with_script
    assert evaluate(browser, "document.querySelectorAll('#layers tbody tr').length") == 16
    controls = (
        "[...document.querySelectorAll('button, input, select')].filter(e => e.checkVisibility()).length"
    )
    assert evaluate(browser, controls) == 0
    assert evaluate(browser, "document.querySelectorAll('details.panel figure svg').length") == 6
    visit(browser, BLANK)


def test_the_table_on_paper_keeps_its_heading_and_its_names(opened):
    """A4 less margins of 14 mm is 688 pixels wide; browsers shrink what is wider, up to a point."""
    browser = opened(width=688)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    widths = "(t => [t.getBoundingClientRect().width, t.querySelector('td.n').offsetWidth])"
    table, names = evaluate(browser, f"{widths}(document.querySelector('#layers table'))")
    assert table < 1.4 * 688
    assert names >= 190
    # Chromium paints no button in the heading that it repeats on each page.
    shown = "getComputedStyle(document.querySelector('#layers th button')).display"
    assert evaluate(browser, shown) == "contents"


def test_print_shows_all_and_no_controls(opened):
    browser = opened(theme="dark")
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": scheme})
    assert (
        evaluate(browser, "getComputedStyle(document.documentElement).getPropertyValue('--paper')") == "#fff"
    )
    gone = "['.links', '.controls', '.theme', 'details.panel']"
    hidden = f"{gone}.map(s => document.querySelector(s).checkVisibility())"
    assert evaluate(browser, hidden) == [False] * 4
    assert evaluate(browser, "getComputedStyle(document.body).color") == "rgb(29, 28, 26)"
    opened_panel = "(d => { d.open = true; return d.checkVisibility(); })(document.querySelector('.panel'))"
    assert evaluate(browser, opened_panel)
    unbroken = "['.finding', '.figure'].map(s => getComputedStyle(document.querySelector(s)).breakInside)"
    assert evaluate(browser, unbroken) == ["avoid", "avoid"]
    box = "(e => e.scrollHeight - e.clientHeight)(document.querySelector('#layers .scroll'))"
    assert evaluate(browser, box) <= 1
