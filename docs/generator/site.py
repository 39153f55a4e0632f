"""The repository's own documents in the site, and links from pages to files outside `docs/` (an mkdocs hook).

Pages are written so that their links work where the sources are browsed. The site also has README.md as its
home page, the documents beside it, and a copy of every file that a page links to.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?<=\]\()([^)\s:#]+)(?=[)#])")
_FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents beside README.md, and what any page links to outside `docs/`."""
    for path in sorted(ROOT.glob("*.md")):
        files.append(_added(config, path))
    for page in list(files.documentation_pages()):
        for target in _targets(page):
            if files.get_file_from_path(_in_site(target)) is None and (ROOT / target).is_file():
                files.append(_added(config, ROOT / target))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between places of the repository become links between places of the site."""
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = _resolved(page.file, match[1])
        if (ROOT / target).is_dir():
            return match[1]
        return posixpath.relpath(_in_site(target), here or ".")

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def _added(config: MkDocsConfig, path: Path) -> File:
    place = path.relative_to(ROOT).as_posix()
    return File.generated(config, _in_site(place), abs_src_path=str(path))


def _targets(page: File) -> list[str]:
    """What a page links to, as places of the repository."""
    text = _FENCE.sub("", Path(page.abs_src_path or "").read_text(encoding="utf-8"))
    return [_resolved(page, target) for target in _LINK.findall(text)]


def _resolved(page: File, target: str) -> str:
    """Place in the repository of what `page` calls `target`."""
    path = Path(page.abs_src_path or "").relative_to(ROOT).as_posix()
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _in_site(place: str) -> str:
    """Where a file of the repository stands in the site."""
    return "index.md" if place == "README.md" else place.removeprefix("docs/")
