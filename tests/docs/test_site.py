"""The documentation builds as a site, and the site loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"((?:https?:)?//[^\"]+)")


ELSEWHERE = re.compile(r"^(?:[a-z]+:|#?$)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {page.resolve(): page.read_text("utf-8") for page in sorted(folder.rglob("*.html"))}


def test_the_site_loads_nothing_from_elsewhere(site):
    assert {"index.html", "init.html", "export.html", "python.html", "facts.html"} <= {page.name for page in site}
    assert [found for text in site.values() for found in LOADED.findall(text)] == []


def test_every_internal_link_resolves(site):
    anchors = {page: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for page, text in site.items()}
    broken = []
    for page, text in site.items():
        if page.name == "404.html":
            continue
        for link in re.findall(r'(?:href|src)="([^"]*)"', text):
            if ELSEWHERE.match(link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and target in anchors and unquote(anchor) not in anchors[target]):
                broken.append((page.name, link))
    assert broken == []


def test_the_home_page_leads_to_every_page():
    linked = set(re.findall(r"\]\(([\w./-]+\.md)", (ROOT / "docs" / "index.md").read_text("utf-8")))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    findings = {page for page in pages if page.startswith("scan/") and page != "scan/index.md"}
    assert pages - findings - linked == {"index.md", "validation_head.md"}
