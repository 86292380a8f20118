"""The site is built from the pages, every link in it leads somewhere, and nothing in it comes from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import fastcam
import fastcam.dataset
import fastcam.evaluate
import fastcam.targets

ROOT = Path(__file__).parents[1]
QUIET = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: path.read_text() for path in site.rglob("*.html")}


def test_every_method_has_a_page(site, pages):
    for method in fastcam.list_methods():
        text = pages[site / "methods" / f"{method.name}.html"]
        assert "<math" in text
        assert "Misleads where" in text
        for option in method.options:
            assert f"<code>{option}</code>" in text
        assert f'href="methods/{method.name}.html"' in pages[site / "methods.html"]


def test_every_public_name_is_in_the_reference(site, pages):
    for name in fastcam.__all__:
        value = getattr(fastcam, name)
        if not isinstance(value, type(fastcam)) and name != "__version__":
            assert f'id="fastcam.{name}"' in pages[site / "reference" / "fastcam.html"], name
    for module in (fastcam.targets, fastcam.dataset, fastcam.evaluate):
        text = pages[site / "reference" / f"{module.__name__}.html"] + pages[site / "measures.html"]
        for name in module.__all__:
            ids = (f'id="{module.__name__}.{name}"', f'id="{module.__name__}.{name}.{name}"')
            is_there = any(each in text for each in (*ids, f"<code>{name}</code>"))
            assert is_there or name in ("Target", "open"), name


def test_links_lead_somewhere(site, pages):
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    missing = []
    for path, text in pages.items():
        if path.name == "404.html":
            continue
        for link in set(re.findall(r'\b(?:href|src)="([^"]+)"', text)):
            address, place = urldefrag(unquote(link))
            if re.match(r"[a-z]+:", address):
                continue
            target = (path.parent / address).resolve() if address else path
            if not target.exists() or (place and target in ids and place not in ids[target] and place != "__top"):
                missing.append(f"{path.relative_to(site)}: {link}")
    assert missing == []


def test_nothing_is_fetched(pages):
    for text in pages.values():
        assert not re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="(https?:)?//', text)
        assert not re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(https?:)?//', text)


def test_docstrings_are_readable(pages):
    for path, text in pages.items():
        assert not re.search(r":(class|func|meth|attr|mod):", text), path
        assert "<blockquote>" not in text or "reference" not in str(path), path  # an example that is not fenced
