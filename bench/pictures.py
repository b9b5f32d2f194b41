"""Make the pictures of docs/report.md anew: `python bench/pictures.py`, with Debian's chromium and chromium-driver.

The digits of `examples`, calibrated by default as the README does it, and their report in a window of 1003 pixels.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from calib8.cli.main import main as calib8

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDTH, TOP, LAYER = 1003, 833, 476
SHOWN = "relu1"


def report(folder: Path) -> Path:
    """Calibrate the digits in a folder, and write their report."""
    shutil.copytree(ROOT / "examples" / "digits", folder, ignore=shutil.ignore_patterns("bmnet_*"))
    for command in (["calibrate", "digits", str(folder), "-n", "150"], ["report", "digits", str(folder)]):
        if calib8(command):
            raise SystemExit(1)
    return folder / "bmnet_digits_report.html"


def photograph(page: Path) -> None:
    """Write both pictures."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or "chromium"
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        for name, height in (("report", TOP), ("layer", LAYER)):
            size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(page.as_uri() + ("" if name == "report" else f"#{layer_anchor(driver)}"))
            driver.save_screenshot(str(PICTURES / f"{name}.png"))
    finally:
        driver.quit()


def layer_anchor(driver: webdriver.Chrome) -> str:
    """Find where the page of the layer is."""
    links = driver.find_elements("css selector", "table a")
    return next(str(a.get_attribute("href")) for a in links if a.text == SHOWN).partition("#")[2]


def main() -> None:
    """Make them."""
    with tempfile.TemporaryDirectory() as folder:
        photograph(report(Path(folder) / "digits"))


if __name__ == "__main__":
    main()
