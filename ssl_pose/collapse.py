"""What the heights of peaks along training say: whether pseudo-heatmaps shrink, fall to background, or overshoot."""

from __future__ import annotations

import pandas as pd

BACKGROUND_PEAK = 0.1  # mean height of peaks, of 1 at best, under which heatmaps say nothing but background
STANDING_PEAK = 2 * BACKGROUND_PEAK  # what it takes to have stood before one can fall
OVERSHOT_PEAK = 2.0  # mean height that no target asks for: true heatmaps have peaks of 1
DIAGNOSTICS = ["peak_first", "peak_lowest", "peak_last", "kept_last", "agreement_last", "background"]


def describe_collapse(log: list[dict[str, float]]) -> str:
    """Since when the peaks in `log` are background, or when they were far too high, as a line; else empty.

    A run that dips and recovers has not collapsed. One that never stood, being short or without burn-in, has
    learnt nothing yet, and its line says that instead. Heights without bound are those of networks that repeat each
    other's noise, and whatever they come down to is no pose.
    """
    peaks = [(row["step"], row["peak"]) for row in log if "peak" in row]
    if not peaks:
        return ""
    if peaks[-1][1] >= BACKGROUND_PEAK:
        step, highest = max(peaks, key=lambda row: row[1])
        return f"overshot at step {step} (mean peak {highest:.1f}, of 1)" if highest > OVERSHOT_PEAK else ""
    end, highest = peaks[-1][1], max(peak for _, peak in peaks)
    if highest < STANDING_PEAK:
        return f"never left the background (mean peak {end:.3f} at the end)"
    stood = max(step for step, peak in peaks if peak >= BACKGROUND_PEAK)
    return f"fell to background after step {stood} (mean peak {highest:.2f} before, {end:.3f} at the end)"


def diagnose(logs: pd.DataFrame) -> pd.DataFrame:
    """A row a run of `results.load_logs`: columns arm, seed and `DIAGNOSTICS`.

    Heights are means over joints, of 1 at best. Percent are `kept`, `agreement` (of two students) and `background`, the
    share of the logged steps at which the mean peak says nothing but background.
    """
    rows = []
    for (arm, seed), run in logs.sort_values("step", kind="stable").groupby(["arm", "seed"], sort=False):
        last, peaks = run.iloc[-1], run.peak.astype(float)
        rows.append({
            "arm": arm, "seed": seed,
            "peak_first": peaks.iloc[0], "peak_lowest": peaks.min(), "peak_last": peaks.iloc[-1],
            "kept_last": 100 * last.kept, "agreement_last": 100 * float(last.get("agreement", float("nan"))),
            "background": 100 * (peaks < BACKGROUND_PEAK).mean(),
        })
    return pd.DataFrame(rows, columns=["arm", "seed", *DIAGNOSTICS])
