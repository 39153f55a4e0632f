"""The site builds without a warning, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    for document in documents:
        name = document.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")
        assert re.sub(r"README$", "index", name) in pages


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]* src=[\"']?((?:https?:)?//[^\"' >]+)")
    links = re.compile(r"<link[^>]* href=[\"']?((?:https?:)?//[^\"' >]+)")
    styles = re.compile(r"@import|url\([\"']?((?:https?:)?//[^)\"']+)")
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not loads.findall(text) + links.findall(text), page
    for sheet in site.rglob("*.css"):
        assert not styles.findall(sheet.read_text()), sheet


def test_links_to_files_of_the_repository_work(site: Path) -> None:
    text = (site / "index.html").read_text()
    assert re.search(r"href=[\"']?config/iot-config\.yaml", text)
    assert (site / "config" / "iot-config.yaml").read_bytes() == (
        ROOT / "config" / "iot-config.yaml"
    ).read_bytes()
