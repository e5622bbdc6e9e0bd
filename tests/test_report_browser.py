"""The report in a headless Chromium: `pytest -m heavy tests/test_report_browser.py`."""

import base64

import pytest
from command import run

browser = pytest.importorskip("browser", reason="needs selenium: pip install '.[heavy]'")
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run of two layers."""
    folder = tmp_path_factory.mktemp("browser")
    shape = ["--n-layer", "2", "--num-steps", "200", "--val", "0.1", "--num-samples", "0"]
    assert run("train", *shape, "--out", "run", cwd=folder)[0] == 0
    assert run("report", "run", cwd=folder)[0] == 0
    return folder / "run" / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_the_page_is_silent_asks_nobody_and_shows_every_figure(page, dark, phone):
    with browser.opened(page, dark=dark, phone=phone) as driver:
        assert browser.console(driver) == []
        assert browser.requests(driver) == []
        script = driver.execute_script
        places, drawn = script(
            "return [document.querySelectorAll('.figure').length,"
            " [...document.querySelectorAll('.figure')].filter(f => f.querySelector("
            "'.main-svg .scatterlayer path, .main-svg .barlayer path')).length]"
        )
        assert places == drawn == script("return Object.keys(FIGURES).length") >= 8
        assert script(
            "return [...document.querySelectorAll('figure image')].every("
            "i => i.getBoundingClientRect().width > 50)"
        )
        assert script("return document.documentElement.scrollWidth <= innerWidth")
        colors = script(
            "return [...document.querySelectorAll('.main-svg .xtick text, figure text')].map("
            "t => getComputedStyle(t).fill)"
        )
        body = script("return getComputedStyle(document.body).color")
        assert set(colors) == {body}
        assert (body == "rgb(255, 255, 255)") is dark


def test_the_page_prints_dark_on_white(page):
    with browser.opened(page, dark=True) as driver:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert (
            driver.execute_script("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        )
        pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
        assert pdf[:5] == b"%PDF-"
        assert browser.console(driver) == []
