"""What is shipped to browsers: vendored files as their manifest says, no HTML from text, readable colours."""

import hashlib
import json
import re
from itertools import product
from pathlib import Path

import pytest

import greenlang_iot.console

STATIC = Path(greenlang_iot.console.__file__).parent / "static"
VENDOR = STATIC / "vendor"
OURS = sorted(path for path in STATIC.rglob("*.js") if VENDOR not in path.parents)
STYLE = (STATIC / "style.css").read_text()


def test_vendored_files_are_those_of_the_manifest() -> None:
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    listed = {item["file"] for item in manifest}
    assert listed == {p.name for p in VENDOR.iterdir() if p.suffix in {".js", ".css"}}
    for item in manifest:
        content = (VENDOR / item["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == item["sha256"], item["file"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", item["version"])
        for part in (item, *item.get("contains", ())):
            text = (VENDOR / part["license_file"]).read_text()
            words = {"MIT": "Permission is hereby granted", "Apache-2.0": "Apache License"}
            assert words[part["license"]] in text


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_text_never_becomes_html_and_nothing_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text
    assert not re.search(r"dangerously|new Function|https?://(?!www\.w3\.org/)", text)


def test_the_page_has_no_inline_script_or_style() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert "<style" not in page
    assert "style=" not in page
    assert not re.search(r"\son\w+=|https?://", page)


# ---- colours -----------------------------------------------------------------------------------------

TEXTS = ("text", "muted", "accent", "ok", "warning", "critical", "info")
GROUNDS = ("ground", "surface", "raised")


def palette(theme: str) -> dict[str, str]:
    light = re.search(r":root \{(.*?)\n\}", STYLE, re.S)
    dark = re.search(r':root\[data-theme="dark"\] \{(.*?)\n\}', STYLE, re.S)
    assert light
    assert dark
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light[1]))
    if theme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark[1]))
    return colours


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_measured_rightly() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_is_readable_on_every_ground(theme: str) -> None:
    colours = palette(theme)
    pairs = [*product(TEXTS, GROUNDS), ("on-accent", "accent"), ("surface", "text")]
    poor = {
        f"{text} on {ground}": round(contrast(colours[text], colours[ground]), 2)
        for text, ground in pairs
        if contrast(colours[text], colours[ground]) < 4.5
    }
    assert poor == {}
    # borders of controls and the focus ring
    for line, ground in product(("edge", "accent"), ("ground", "surface")):
        assert contrast(colours[line], colours[ground]) >= 3.0, (line, ground)
