"""Links to other sites: their form always, and whether the pages are there when these tests have internet."""

from __future__ import annotations

import http.client
import re
import socket
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "recipes").rglob("*.md"),
    *(ROOT / "zoo").rglob("*.md"),
    *(ROOT / "binarize").rglob("*.py"),
    *(ROOT / "binarize").rglob("*.html"),
]
MOVED = {"pytorch.org": "docs.pytorch.org", "larq.dev": "docs.larq.dev", "www.zensical.org": "zensical.org"}
"""Hosts that only lead to another one."""
NAMESPACES = {"www.w3.org"}  # names of formats, which nobody opens
_SECONDS = 15


def links() -> dict[str, list[str]]:
    """The files that each address stands in; what is behind `#` does not count."""
    found = defaultdict(list)
    for path in sorted(FILES):
        for link in re.findall(r"\bhttps?://[^\s\"'`<>)\]}]+", path.read_text(encoding="utf-8")):
            address = link.partition("#")[0].rstrip(".,;:")
            if urlsplit(address).hostname not in NAMESPACES:
                found[address].append(str(path.relative_to(ROOT)))
    return dict(found)


def same_page(address: str) -> str:
    """What two addresses of one page have in common: no scheme, `www.`, ending or last slash."""
    parts = urlsplit(address)
    host = (parts.hostname or "").removeprefix("www.")
    path = parts.path.rstrip("/").removesuffix(".git")
    if host == "arxiv.org":
        path = re.sub(r"^/pdf/", "/abs/", path).removesuffix(".pdf")
        path = re.sub(r"v\d+$", "", path)
    return host + path


def test_there_are_links() -> None:
    assert len(links()) > 20


def test_links_are_https() -> None:
    assert not {link: files for link, files in links().items() if not link.startswith("https://")}


def test_no_link_names_a_host_that_moved() -> None:
    hosts = {link: urlsplit(link).hostname or "" for link in links()}
    assert not {link: f"write {MOVED[host]}" for link, host in hosts.items() if host in MOVED}


def test_a_page_has_one_address() -> None:
    pages = defaultdict(set)
    for link in links():
        pages[same_page(link)].add(link)
    assert not [sorted(addresses) for addresses in pages.values() if len(addresses) > 1]


def test_papers_are_abstracts_on_arxiv() -> None:
    papers = [link for link in links() if "arxiv.org" in link]
    assert not [link for link in papers if not re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", link)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://arxiv.org/abs/2411.10346", "http://www.arxiv.org/pdf/2411.10346v2.pdf"),
        ("https://github.com/a/b", "https://github.com/a/b.git"),
        ("https://zensical.org", "https://zensical.org/"),
    ],
)
def test_what_one_page_is(one: str, other: str) -> None:
    assert same_page(one) == same_page(other)
    assert same_page(one) != same_page("https://github.com/a/c")


def status(link: str) -> int:
    """The status of an answer, without following redirects."""
    parts = urlsplit(link)
    assert parts.hostname is not None
    connection = http.client.HTTPSConnection(parts.hostname, timeout=_SECONDS)
    try:
        connection.request("GET", parts.path or "/", headers={"User-Agent": "binarize-link-check"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.slow
def test_pages_are_there() -> None:
    """404 and 410 are faults; a host that refuses scripts or is down for a while is not."""
    try:
        socket.create_connection(("arxiv.org", 443), timeout=5).close()
    except OSError as error:
        pytest.skip(f"no internet: {error}")
    gone = {}
    for link, files in links().items():
        try:
            code = status(link)
        except socket.gaierror:
            gone[link] = f"no such host, in {files}"
        except OSError:
            continue
        else:
            if code in (404, 410):
                gone[link] = f"status {code}, in {files}"
    assert not gone
