"""Hooks of the site's build (mkdocs.yml): pages that lie outside docs/, and links that leave it.

Contract: a link to a file of the repository that is also a page of the site leads to that page; one to any other file
that exists becomes its name, since the site does not hold it; one to nothing stays, and fails the strict build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# A file of the repository -> where it stands on the site.
INCLUDED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "VENDORED.md": "vendored.md",
    "experiments/README.md": "experiments.md",
}
INCLUDED_FOLDERS = {"experiments/figures": "figures"}
SOURCE_OF = {page: source for source, page in INCLUDED.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the included files, and every page that the navigation does not name under "More"."""
    for source, page in INCLUDED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for source, folder in INCLUDED_FOLDERS.items():
        for path in sorted((ROOT / source).iterdir()):
            files.append(File.generated(config, f"{folder}/{path.name}", abs_src_path=str(path)))
    named = set(names(config.nav or []))
    missing = sorted({file.src_uri for file in files.documentation_pages()} - named)
    if missing:
        config.nav = [*(config.nav or []), {"More": missing}]
    return files


def names(nav: Any) -> list[str]:
    """All pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [name for item in items for name in names(item)]


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Links that leave docs/, rewritten."""
    here = PurePosixPath(page.file.src_uri)
    origin = PurePosixPath(SOURCE_OF.get(page.file.src_uri, f"docs/{here}")).parent

    def rewritten(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match.group()
        source = os.path.normpath(origin / target)
        inside = INCLUDED.get(source) or source.removeprefix("docs/") * source.startswith("docs/")
        for folder, place in INCLUDED_FOLDERS.items():
            if source.startswith(folder + "/"):
                inside = place + source.removeprefix(folder)
        if inside and files.get_file_from_path(inside):
            return f"{image}[{text}]({os.path.relpath(inside, here.parent)}{anchor or ''})"
        if not image and (ROOT / source).exists():
            return text if text.startswith("`") else f"{text} (`{source}`)"
        return match.group()

    return LINK.sub(rewritten, markdown)
