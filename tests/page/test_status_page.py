# SPDX-License-Identifier: Apache-2.0
"""The status page in a real browser, on a real daemon: what it shows, and what it must not do.

scripts/test_page.sh        # pictures of the page in build/page
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

from conftest import Daemon, View
from load import CACHES, HOSTILE, LABELS, Load

MakeView = Callable[..., View]

# Figures of the page -> the sum that /metrics has for it.
_TEXTS = """() => Object.fromEntries([...document.querySelectorAll('[data-figure]')]
    .map((one) => [one.dataset.figure, Number(one.textContent.replaceAll(',', ''))]))"""

# Elements that stick out to the right, outside of boxes that scroll by themselves.
_OVERFLOW = """() => [...document.body.querySelectorAll('*')].filter((one) =>
    one.getBoundingClientRect().right > innerWidth + 0.5 && !one.closest('.scroll, .skip, svg')
    ).map((one) => `${one.tagName} ${one.id} ${one.className} ${one.textContent.slice(0, 40)}`)"""

# Text whose contrast with what lies behind it is below WCAG 2's 4.5.
_FAINT = """() => {
  const channel = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const one of document.body.querySelectorAll('*')) {
    const text = [...one.childNodes].filter((node) => node.nodeType === 3)
      .map((node) => node.textContent.trim()).join('');
    if (text === '' || one.closest('noscript') || one.getClientRects().length === 0) continue;
    const style = getComputedStyle(one);
    const color = rgb(one instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(color), luminance(behind(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(2)}: ${one.tagName} ${text.slice(0, 40)}`);
  }
  return faint;
}"""


def scrape(daemon: Daemon) -> dict[str, float]:
    """The sum over all labels of each metric."""
    with urllib.request.urlopen(daemon.origin + "/metrics", timeout=30) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name = re.split(r"[{ ]", line, maxsplit=1)[0]
        sums[name] = sums.get(name, 0) + float(line.rsplit(" ", 1)[1])
    return sums


def wait_for_looks(view: View, looks: int) -> None:
    """Until the page has asked for figures so many times more."""
    for _ in range(looks):
        with view.page.expect_response("**/api/status") as answer:
            pass
        assert answer.value.ok


def test_a_daemon_without_work_is_no_special_case(
    start_daemon: Callable[[], Daemon], view: MakeView
) -> None:
    idle = start_daemon()
    for scheme in ("light", "dark"):
        page = view(idle, scheme=scheme)
        page.open()
        wait_for_looks(page, 2)
        assert page.page.inner_text("#state") == "Serving"
        assert "No cache is open" in page.page.inner_text("#caches")
        assert "No session is open" in page.page.inner_text("#sessions")
        assert page.page.locator("#tenants").is_hidden()
        assert page.page.inner_text("#tile-requests") == "0"
        assert page.page.inner_text("#tile-errors") == "0"
        text = page.page.inner_text("body")
        assert not re.search(r"\bNaN\b|undefined|null|Infinity|\[object", text), text
        page.picture(f"idle-{scheme}")
        assert page.complaints == []


def test_the_figures_are_those_of_the_metrics(loaded: Daemon, load: Load, view: MakeView) -> None:
    page = view(loaded)
    page.open()
    wait_for_looks(page, 6)
    # While it works: rates, latencies and the queue move.
    page.page.wait_for_function("Number(document.getElementById('tile-tokens').textContent) !== 0")
    for tile in ("requests", "tokens", "latency"):
        assert re.match(r"[\d.]+", page.page.inner_text(f"#tile-{tile}")), tile
    for chart in ("requests", "latency", "tokens", "batch", "pages"):
        assert page.page.locator(f"#chart-{chart} path.line").count() > 0, chart
        assert re.search(r"\d", page.page.get_attribute(f"#chart-{chart} svg", "aria-label") or "")
    assert page.page.locator("#chart-errors .legend").inner_text().startswith("INVALID_ARGUMENT")
    for stage in ("stage in", "queue", "kernel", "stage out"):
        bar = page.page.get_by_role("img", name=re.compile(f"^{stage}: .* to "))
        assert bar.count() == 1, stage

    # When it rests: the same numbers, to the last digit.
    load.stop()
    expected = {
        name: value for name, value in scrape(loaded).items() if name in page.page.evaluate(_TEXTS)
    }
    assert expected["attnd_requests_total"] > 20
    assert len(expected) == page.page.locator("[data-figure]").count()
    page.page.wait_for_function(
        f"(want) => JSON.stringify(({_TEXTS})()) === JSON.stringify("
        f"Object.fromEntries(Object.keys(({_TEXTS})())"
        ".map((key) => [key, want[key]])))",
        arg=expected,
    )
    now = scrape(loaded)
    assert page.page.inner_text("#sessions .count") == str(int(now["attnd_sessions"]))
    assert page.page.inner_text("#caches .count") == str(len(CACHES))
    pages = page.page.evaluate(
        "fetch('/api/status').then((one) => one.json())"
        ".then((one) => one.caches.flatMap((c) => Object.values(c.pages)))"
    )
    assert sum(pages) == now["attnd_pages"]
    assert page.page.inner_text("#tile-queue") == "0"
    assert page.complaints == []


def test_nothing_is_asked_of_another_origin(loaded: Daemon, view: MakeView) -> None:
    page = view(loaded)
    page.open()
    wait_for_looks(page, 2)
    assert len(page.urls) > 6
    assert [url for url in page.urls if not url.startswith(loaded.origin + "/")] == []
    assert page.complaints == []


def test_what_clients_write_is_text(loaded: Daemon, load: Load, view: MakeView) -> None:
    page = view(loaded)
    page.open()
    labels = page.page.locator("#sessions tbody th").all_inner_texts()
    assert sorted(labels) == sorted(label.strip() for label in LABELS)
    assert HOSTILE in labels
    assert page.page.title() == "Serving · attnd"
    assert page.page.locator("#sessions img, #sessions script").count() == 0
    assert page.complaints == []


def test_it_fits_and_can_be_read(loaded: Daemon, load: Load, view: MakeView) -> None:
    page = view(loaded)
    page.open()
    wait_for_looks(page, 8)
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for width in (320, 390, 768, 1280, 1920):
            page.page.set_viewport_size({"width": width, "height": 800})
            wait_for_looks(page, 1)
            page.picture(f"load-{width}-{scheme}")
            where = f"{width} px, {scheme}"
            assert page.page.evaluate("document.documentElement.scrollWidth") <= width, where
            assert page.page.evaluate(_OVERFLOW) == [], where
            assert page.page.evaluate(_FAINT) == [], where
    assert page.complaints == []


def test_a_screen_reader_finds_its_way(loaded: Daemon, load: Load, view: MakeView) -> None:
    page = view(loaded)
    page.open()
    # Nothing is said again and again: live regions change with the state alone.
    page.page.evaluate("""() => {
      window.changes = 0;
      const observer = new MutationObserver((all) => { window.changes += all.length; });
      for (const live of document.querySelectorAll('[role=status], [role=alert], [aria-live]')) {
        observer.observe(live, {childList: true, characterData: true, subtree: true});
      }
    }""")
    wait_for_looks(page, 3)
    assert page.page.evaluate("window.changes") == 0
    for table in page.page.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th[scope=col]").count() > 1
        assert table.locator("tbody th[scope=row]").count() == table.locator("tbody tr").count()
    levels = [
        int(tag[1])
        for tag in page.page.locator("h1, h2, h3").evaluate_all(
            "(all) => all.map((one) => one.tagName)"
        )
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.className") == "skip"
    # On a phone the rows are cards, and a table all the same.
    page.page.set_viewport_size({"width": 320, "height": 800})
    assert page.page.get_by_role("row").count() > len(LABELS)
    # Their columns' heads are hidden: each cell says its column.
    assert page.page.locator("#caches").get_by_role("columnheader").count() == 0
    assert page.page.locator("#caches td[data-name=Sequences]").count() == len(CACHES)


def test_the_pointer_reads_the_past(loaded: Daemon, load: Load, view: MakeView) -> None:
    page = view(loaded)
    page.open()
    wait_for_looks(page, 2)
    chart = page.page.locator("#chart-pages svg.plot")
    chart.hover()
    assert page.page.locator("#chart-pages .cursor").count() == 1
    page.page.mouse.move(0, 0)
    assert page.page.locator("#chart-pages .cursor").count() == 0


def test_draining_shows(loaded: Daemon, load: Load, view: MakeView) -> None:
    page = view(loaded, scheme="dark")
    page.open()
    load.stop()
    load.drain()
    page.page.wait_for_selector("#state[data-state=draining]")
    assert page.page.inner_text("#state") == "Draining"
    assert "new work is refused" in page.page.inner_text("#banner")
    page.picture("draining-dark")
    assert page.complaints == []


def test_a_daemon_that_is_gone_shows(start_daemon: Callable[[], Daemon], view: MakeView) -> None:
    daemon = start_daemon()
    page = view(daemon)
    page.open()
    daemon.process.kill()
    daemon.process.wait()
    page.page.wait_for_selector("#state[data-state=lost]")
    assert page.page.inner_text("#state") == "No answer"
    assert "No answer from the daemon since" in page.page.inner_text("#banner")
    page.picture("gone-light")
