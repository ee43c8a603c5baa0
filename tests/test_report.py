"""The report of an evaluation: written whole, and shown by a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluation import GRID, run

from laps_env.cli import main
from laps_env.evaluation.results import Results
from laps_env.report.page import report_page
from laps_env.report.write import steps_of, write_report
from laps_env.sim.metrics import PERCENTILES


@pytest.fixture(scope="module")
def results() -> Results:
    return run(GRID)


def test_an_evaluation_ends_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = "--scenario chat-batch8-135m --loads 0.8 --episodes 2 --requests 30 --policies fcfs,las"
    main(["evaluate", *grid.split()])
    assert "report: report/index.html" in capsys.readouterr().out
    written = {str(path.relative_to("report")) for path in Path("report").rglob("*.*")}
    assert written == {"index.html", "results.md", "timelines/chat-batch8-135m.html"}
    assert "## chat-batch8-135m, load 0.8" in Path("report/results.md").read_text()
    main(["evaluate", *grid.split(), "--json", "other.json", "--report", "elsewhere"])
    assert Path("elsewhere/index.html").exists()


def test_a_report_of_a_thousand_episodes_opens(page: Any, results: Results, tmp_path: Path) -> None:
    rows = [replace(row, load=0.001 * k) for k in range(1, 126) for row in results.rows]
    assert len(rows) * GRID.episodes >= 1000
    index = tmp_path / "index.html"
    index.write_text(report_page(replace(results, rows=rows), {}))
    assert index.stat().st_size < 4e6
    page.goto(index.as_uri())
    assert len(page.query_selector_all("#load option")) == 125
    assert len(page.query_selector_all("#loads circle")) >= 125


def test_timelines_are_of_the_highest_load_and_the_fastest_rule(
    results: Results, tmp_path: Path
) -> None:
    scenario = GRID.scenarios[0]
    rows = [row for row in results.rows if row.scenario == scenario]
    ordered = sorted(rows, key=lambda row: row.mean_latency_s)
    fastest = next(row.policy for row in ordered if row.policy != "laps_sd_tuned")
    loads = [replace(row, load=load) for load in (0.8, 10.0, 9.0) for row in rows]
    write_report(replace(results, rows=loads), tmp_path)
    text = (tmp_path / "timelines" / f"{scenario}.html").read_text()
    assert f"{scenario}, load 10.0, 60 requests" in text
    assert re.findall(r'{"title": "([^"]*)", "end"', text) == ["laps_sd_tuned", fastest]


def test_the_page_draws_rows_that_differ_by_rounding_alone(
    page: Any, results: Results, tmp_path: Path
) -> None:
    changed: Any = {
        "mean_latency_s": 12.66,
        "p99_latency_s": 1e-300,
        "category_mean_latency_s": {"__proto__": 1.0},
    }
    rows = [replace(row, **changed) for row in results.rows]
    rows[1] = replace(rows[1], mean_latency_s=float(np.nextafter(12.66, 13)))
    index = tmp_path / "index.html"
    index.write_text(report_page(replace(results, rows=rows), {}))
    page.goto(index.as_uri())
    assert len(page.query_selector_all("#tails circle")) >= 2
    assert "__proto__" in page.inner_text("#categories")


#: Texts of a chart's ticks, along the bottom and up the side.
TICKS = """svg => ["middle", "end"].map(anchor =>
  [...svg.querySelectorAll(`text[text-anchor=${anchor}]:not([transform])`)]
    .map(text => text.textContent).slice(0, anchor === "middle" ? -1 : undefined))"""


@pytest.mark.parametrize("spread", [1e-12, 1e-7, 1e-3, 0.7, 1e4])
@pytest.mark.parametrize("around", [1e-3, 1.0, 18.6, 4e5])
def test_no_tick_is_told_twice(
    page: Any, results: Results, tmp_path: Path, around: float, spread: float
) -> None:
    values = around * (1 + spread * np.linspace(0, 1, len(results.rows)))
    rows = [
        replace(
            row,
            mean_latency_s=x,
            ratio_to_reference=x,
            **{f"p{q}_latency_s": x * (1 + q / 1e4) for q in PERCENTILES[:-1]},  # type: ignore[arg-type]
            p99_latency_s=2 * x,
        )
        for row, x in zip(results.rows, values.tolist(), strict=True)
    ]
    index = tmp_path / "index.html"
    index.write_text(report_page(replace(results, rows=rows), {}))
    page.goto(index.as_uri())
    for chart in ("distribution", "loads", "tails"):
        for ticks in page.eval_on_selector(f"#{chart}", TICKS):
            assert len(ticks) >= 2, chart
            assert len(set(ticks)) == len(ticks), chart


@pytest.mark.parametrize("width", [320, 420, 1200])
def test_the_page_fits_a_narrow_window(
    page: Any, results: Results, tmp_path: Path, width: int
) -> None:
    source = {"acceptance": "recorded " + "a-file-with-a-long-name" * 5 + ".safetensors"}
    names = ((f"{name}-{'x' * 30}" for name in (r.policy, r.reference)) for r in results.rows)
    rows = [
        replace(row, policy=policy, reference=reference, source=source)
        for row, (policy, reference) in zip(results.rows, names, strict=True)
    ]
    index = tmp_path / "index.html"
    links = {str(scenario): {"timelines, load 0.9": "x.html"} for scenario in GRID.scenarios}
    index.write_text(report_page(replace(results, rows=rows), links))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(index.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_error_leaves_nothing_and_does_not_wait(results: Results, tmp_path: Path) -> None:
    rows = [replace(row, policy="none") for row in results.rows] * 50
    told: list[int] = []
    with pytest.raises(ValueError, match="policy: expected one of"):
        write_report(replace(results, rows=rows), tmp_path / "report", told.append)
    assert len(told) < len(rows) / 2
    assert not list(tmp_path.iterdir())


def test_progress_is_told_step_by_step(results: Results, tmp_path: Path) -> None:
    steps: list[int] = []
    write_report(results, tmp_path, steps.append)
    assert sum(steps) == steps_of(results) == 2


def test_texts_cannot_leave_the_data(results: Results) -> None:
    evil = "</script><script>alert(1)</script>"
    rows = [replace(row, policy=evil, reference=evil) for row in results.rows]
    links = {evil: {evil: evil}}
    page = report_page(replace(results, rows=rows), links)
    assert page.count("</script>") == 1


def test_the_report_in_a_browser(page: Any, results: Results, tmp_path: Path) -> None:
    gaps = [None, 2.4, -1.9, 0.5] * 2  # else too small
    rows = [replace(row, gap_closed=gap) for gap, row in zip(gaps, results.rows, strict=True)]
    index = write_report(replace(results, rows=rows), tmp_path)
    page.goto(index.as_uri())
    assert "For the mean: " in page.inner_text("#verdicts")

    def policies() -> list[str]:
        cells = page.query_selector_all("#table td:first-child")
        return [cell.inner_text().strip() for cell in cells]

    for scenario in GRID.scenarios:
        page.select_option("#scenario", scenario)
        rows = [row for row in results.rows if row.scenario == scenario]
        ordered = sorted(rows, key=lambda row: row.ratio_to_reference)
        assert policies() == [row.policy for row in ordered]
    charts = {"distribution": "path", "loads": "circle", "tails": "circle", "gaps": "rect"}
    for chart, mark in charts.items():
        assert len(page.query_selector_all(f"#{chart} {mark}")) >= 2, chart
    inside = (
        "all => all.every(e => { const b = e.getBBox(); return b.x >= 0 && b.x + b.width <= 520; })"
    )
    assert page.eval_on_selector_all("#gaps text, #gaps rect", inside)
    page.click("text=gap closed >> nth=0")
    assert policies()[-1] == GRID.policies[0]  # whose gap is not known
    counted = ("#distribution path", "#tails circle", '#tails circle[fill="#d5d9de"]')
    lines, dots, grey = (len(page.query_selector_all(marks)) for marks in counted)
    page.click(
        "#table input:checked"
    )  # a policy that is not shown stays, grey, beside the frontier
    after = [len(page.query_selector_all(marks)) for marks in counted]
    assert after == [lines - 1, dots, grey + 1]
    fastest = next(row.policy for row in ordered if row.policy != "laps_sd_tuned")
    page.click("text=timelines, load 0.9")
    page.wait_for_selector("h2")
    assert [h.inner_text() for h in page.query_selector_all("h2")] == ["laps_sd_tuned", fastest]
