"""Takes the picture of a report that the README shows.   python docs/screenshot.py RUN

The page is made of RUN/report.json as the code writes it now. It needs Chromium and `pip install -e '.[browser]'`.
"""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import sync_playwright

from rlhf_plugins.report import files
from rlhf_plugins.report.page import page

PICTURE = Path(__file__).parent / "report.png"
WIDTH, HEIGHT, SCALE = 1200, 1235, 1.5  # CSS pixels, of the top of the page; pixels for each


def taken(html: str, width: int = WIDTH, height: int = HEIGHT, dark: bool = False) -> bytes:
    """The top of a page as PNG."""
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(html, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": width, "height": height},
            device_scale_factor=SCALE,
            color_scheme="dark" if dark else "light",
        )
        tab.goto(file.as_uri())
        return tab.screenshot()


def main(run: Path) -> None:
    """Writes the picture with a palette, which makes it a fraction as large."""
    with Image.open(BytesIO(taken(page(files.read(run))))) as picture:
        whole = picture.convert("RGB")
    # Not by the median cut, which gives colours of few pixels, such as those of policies, to their neighbours.
    small = whole.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small.save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
