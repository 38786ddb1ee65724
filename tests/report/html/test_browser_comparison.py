"""A comparison's page in a real browser: no request, no sideways scroll, a table that sorts."""

import json

import pytest

from normprobe import compare
from tests.helpers.comparison_models import changed, net, port, record
from tests.report.html.test_browser import BLANK, browser, evaluate, pytestmark, visit  # noqa: F401


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    twin = changed(port(net()), lambda m: m.h[1].fc2.weight.mul_(1.05))
    return compare(record(net()), record(twin)).report(tmp_path_factory.mktemp("page")).as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 500, 1200])
def test_no_request_no_complaint_and_no_sideways_scroll(browser, address, width, theme):  # noqa: F811
    opened = visit(browser, address, width=width, theme=theme)
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {address}
    assert opened.get_log("browser") == []
    assert evaluate(opened, "document.documentElement.scrollWidth") <= width


def test_errors_sort_with_none_at_one_end(browser, address):  # noqa: F811
    opened = visit(browser, address)
    press = "document.querySelectorAll('#layers th')[4].querySelector('button').click() || 0"
    shown = "[...document.querySelectorAll('#layers tbody tr')].map(r => r.cells[4].textContent)"
    evaluate(opened, press)
    values = evaluate(opened, shown)
    numbers = [float(value.replace("−", "-")) for value in values if value != "none"]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) > 3
    assert set(values[len(numbers) :]) <= {"none"}
    evaluate(opened, press)
    assert evaluate(opened, shown)[-1] == values[0]


def test_the_first_layer_is_linked_and_marked(browser, address):  # noqa: F811
    opened = visit(browser, address)
    evaluate(opened, "document.querySelector('.verdict a').click() || 0")
    target = evaluate(opened, "location.hash.slice(1)")
    assert evaluate(opened, f"document.getElementById('{target}').className") == "first"
    assert "first" in evaluate(opened, f"document.getElementById('{target}').textContent")
    marks = evaluate(opened, "document.querySelectorAll('figure svg .hit').length")
    assert marks == 16


def test_search_filters_and_all_is_there_without_script(browser, address):  # noqa: F811
    opened = visit(browser, address)
    type_in = "(e => { e.value = 'norm'; e.dispatchEvent(new Event('input')); return 0; })"
    evaluate(opened, f"{type_in}(document.querySelector('#search'))")
    assert evaluate(opened, "document.querySelector('#count').textContent") == "7 of 16 layers"
    plain = visit(browser, address, script=False)
    assert evaluate(plain, "document.querySelectorAll('#layers tbody tr').length") == 16
    assert evaluate(plain, "[...document.querySelectorAll('main section')].map(s => s.id)") == [
        "diverge", "findings", "layers", "unseen", "reading",
    ]  # fmt: skip
    visit(browser, BLANK)
