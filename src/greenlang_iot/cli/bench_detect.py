"""`greenlang-iot bench detect`: what the shipped detector scores on labelled series."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.model.errors import InputError

if TYPE_CHECKING:
    from greenlang_iot.bench.nab_run import Report

PUBLISHED = (
    ("ARTime", 74.9, math.nan, math.nan),
    ("Numenta HTM", 70.5, 62.6, 75.2),
    ("CAD OSE", 69.9, 67.0, 73.2),
    ("KNN-CAD", 58.0, 43.4, 64.8),
    ("relative entropy", 54.6, 47.6, 58.8),
    ("windowed Gaussian", 39.6, 20.9, 47.4),
    ("random", 11.0, 1.2, 19.5),
    ("null", 0.0, 0.0, 0.0),
)
"""NAB's scoreboard: standard, low FP, low FN (NaN: not known here)."""


def detect(
    nab: Annotated[
        Path | None, typer.Option(help="The benchmark's folder (data/, labels/); or NAB_DATA.")
    ] = None,
    own: Annotated[
        bool, typer.Option("--own", help="Our own benchmark too: seeded faults; some minutes.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line.")
    ] = False,
) -> None:
    """Score the default detector on the Numenta Anomaly Benchmark.

    Every file is read row by row, in the order of its rows, through the code that the gateway runs.

    Example: greenlang-iot bench detect --nab ~/NAB

    Exit codes: 0 scored, 2 the corpus is missing or wrong.
    """
    from greenlang_iot.bench import nab as corpus
    from greenlang_iot.bench import nab_run

    folder = nab or (Path(os.environ["NAB_DATA"]) if "NAB_DATA" in os.environ else None)
    if folder is None:
        raise InputError("no benchmark data: give --nab PATH or set NAB_DATA")
    try:
        files = corpus.load(folder)
    except OSError as error:
        raise InputError(f"cannot read the benchmark in {folder}: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder} is not the benchmark's data: {error}") from error
    report = nab_run.run(files)
    sys.stdout.write(_table(report))
    second = nab_run.second_stage(files)
    sys.stdout.write(
        f"\nsecond stage: {second.observations:,} of {second.rows:,} rows "
        f"({second.observations / second.rows:.3%}), {second.microseconds:.0f} µs each; standard at "
        f"the shipped threshold {second.standard:.2f} with it, {second.standard_without:.2f} without\n"
    )
    summary = _summary(report)
    if own:
        from greenlang_iot.bench import own_detect

        result = own_detect.run()
        sys.stdout.write("\n" + own_detect.table(result))
        summary["own"] = own_detect.summary(result)
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")


def _summary(report: "Report") -> dict[str, object]:
    best, shipped = report.profiles, report.shipped
    return {
        "standard": round(best["standard"].score, 2),
        "low_fp": round(best["low_fp"].score, 2),
        "low_fn": round(best["low_fn"].score, 2),
        "shipped_threshold_standard": round(shipped["standard"].score, 2),
        "halves": [round(score, 2) for score in report.halves],
        "seconds": round(report.seconds, 2),
    }


def _table(report: "Report") -> str:
    best, shipped = report.profiles, report.shipped
    names = ("standard", "low_fp", "low_fn")
    lines = [_row("", "standard", "low FP", "low FN", "windows", "false")]
    for category, scores in report.categories.items():
        one = scores["standard"]
        figures = [_figure(scores[name].score, one.windows) for name in names]
        lines.append(_row(category, *figures, f"{one.found}/{one.windows}", str(one.false_rows)))
    for title, scores in (("all, best threshold", best), ("all, shipped threshold", shipped)):
        one = scores["standard"]
        figures = [_figure(scores[name].score, one.windows) for name in names]
        lines.append(_row(title, *figures, f"{one.found}/{one.windows}", str(one.false_rows)))
    thresholds = [_threshold(best[name].threshold) for name in names]
    lines.append(_row("best threshold", *thresholds, "", ""))
    first, second = report.halves
    lines.append("")
    lines.append(f"either half at the other half's best threshold: {first:.1f} and {second:.1f}")
    lines.append(
        f"{report.rows:,} rows in {report.seconds:.1f} s, the compiling of kernels included"
    )
    lines += ["", _row("published", "standard", "low FP", "low FN", "", "")]
    lines += [_row(name, *(_figure(x) for x in figures), "", "") for name, *figures in PUBLISHED]
    return "\n".join(lines) + "\n"


def _row(title: str, *cells: str) -> str:
    return f"{title:24}" + "".join(f"{cell:>10}" for cell in cells).rstrip()


def _figure(score: float, windows: int = 1) -> str:
    return f"{score:.1f}" if windows and math.isfinite(score) else "–"


def _threshold(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "none"
