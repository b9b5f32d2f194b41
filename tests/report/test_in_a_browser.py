"""The page in Chromium: no error, nothing fetched, the table sorts and searches, a click on a layer opens it.

Needs selenium, and Debian's chromium and chromium-driver or what CHROMIUM and CHROMEDRIVER name.
"""

from __future__ import annotations

import os
import shutil
import time

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no chromium and chromedriver", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver.chrome.options import Options  # noqa: PLC0415 - may be missing
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = Options()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page)
    browser.get_log("performance")
    browser.get(f"file://{path}")
    return browser


def wait_for(condition):
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


def column(browser, number):
    script = "return [...document.querySelectorAll('#layers tbody tr')].filter(r => !r.hidden)"
    return browser.execute_script(f"{script}.map(r => r.cells[{number}].dataset.sort ?? r.cells[{number}].textContent)")


def test_no_error_and_nothing_fetched(opened):
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [
        entry["message"] for entry in opened.get_log("performance") if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert len(asked) >= 1  # the page itself
    assert not [text for text in asked if '"url":"http' in text]


def test_the_table_sorts_by_keyboard_too(opened):
    losses = [float(text) for text in column(opened, 2)]
    assert losses == sorted(losses, reverse=True)
    header = opened.find_elements("css selector", "#layers thead th")[2]
    header.click()
    header.send_keys("\ue007")  # Enter
    assert wait_for(lambda: [float(text) for text in column(opened, 2)] == sorted(losses))
    assert opened.find_elements("css selector", "#layers thead th")[2].get_attribute("aria-sort") == "ascending"


def test_the_table_is_searched(opened):
    box = opened.find_element("id", "search")
    box.send_keys("conv2 convolution")
    assert wait_for(lambda: column(opened, 1) == ["Convolution"] * 2)
    assert opened.find_element("id", "shown").text == "2 layers"


def test_a_click_on_a_layer_opens_it(opened):
    page = opened.find_element("id", "layer-1")
    assert page.get_attribute("open") is None
    opened.find_element("css selector", ".network a[href='#layer-1'] text").click()
    assert wait_for(lambda: page.get_attribute("open") is not None)
    assert page.find_element("css selector", ".histogram").is_displayed()


def test_nothing_is_wider_than_a_phone(opened):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened, scheme):
    """WCAG's contrast of 4.5 for text on cards."""
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    pairs = opened.execute_script(
        "const style = getComputedStyle(document.documentElement); const value = n => style.getPropertyValue(n).trim();"
        "return ['--ink', '--soft', '--accent', '--good', '--fair', '--bad'].map(n => [value(n), value('--card')])"
    )
    for text, paper in pairs:
        light, dark = sorted((luminance(text), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, paper)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
