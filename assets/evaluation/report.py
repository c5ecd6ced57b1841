"""The report: one HTML file that answers the question at the top and shows everything behind it, offline.

    curves, rates, ideal (tables) ─┐
    gallery (pictures)            ─┼─ render_report ─ one string of HTML: styles, script, data and pictures inside
    provenance (a dict)           ─┘

Nothing is fetched: no font, no script, no picture. Links to MLflow runs are links only. The page works without a mouse
and in the dark; every number of its charts also stands in a table, so that it can be read without the script.
"""

import base64
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from assets.evaluation.bd_rate import BASELINE, BD_METRICS, to_decibel
from assets.evaluation.ideal import MAPS_OF_CONDITIONING, share_of_ideal
from assets.evaluation.palette import look
from assets.evaluation.rate_distortion import (
    CLASSICAL_ARM,
    CURVE_KEYS,
    REFERENCE_ARMS,
    label_arm,
    shared_parts,
    without,
    without_parts,
)
from assets.evaluation.verdict import METHOD, Verdict, find_verdicts, records
from assets.evaluation.windows import salient_window
from models.metrics import METRICS

Picture = NDArray[np.uint8]

FOLDER = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"
BUDGET_BYTES = 6_000_000
_CROP_SIDE = 160
_WHOLE_WIDTH = 960
CURVE_METRICS = ("ew_psnr_db", "sw_psnr_db", "psnr_db", "ms_ssim", "ew_ms_ssim", "sw_ms_ssim", "bg_psnr_db")
INDICES = ("vsi", "haarpsi", "gmsd")


@dataclass(frozen=True)
class GalleryShot:
    """One reconstruction of a picture: which curve and rate it belongs to, its bpp and its metrics, and its pixels.

    rate_name, rate: as in rd_points. values: names of models.metrics.
    """

    codec: str
    arm: str
    maps: str
    bpp: float
    values: Mapping[str, float]
    picture: Picture
    rate_name: str
    rate: float
    variant: str = ""


@dataclass(frozen=True)
class GalleryItem:
    """A picture with its map (uint8 H×W) and its reconstructions: every arm at every rate, classical at any quality.

    fixation_map: H×W, where people looked, if it is known.
    """

    image: str
    original: Picture
    saliency_map: Picture
    shots: Sequence[GalleryShot]
    fixation_map: NDArray[np.floating[Any]] | None = None
    dataset: str = ""


def number(value: Any, digits: int = 2, *, sign: bool = False, unit: str = "") -> str:
    """A number as the page writes it: a true minus, a fixed count of digits, a dash for what is not known."""
    if value is None or not math.isfinite(float(value)):
        return "–"
    text = f"{float(value):{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return f"{text}\u202f{unit}" if unit else text


def percent(value: Any) -> str:
    """A BD-rate, signed, one digit."""
    return number(value, 1, sign=True, unit="%")


def interval(low: Any, high: Any, digits: int = 1) -> str:
    """An interval in brackets, or a dash."""
    if not (math.isfinite(float(low)) and math.isfinite(float(high))):
        return "–"
    return f"[{number(low, digits, sign=True)},\u00a0{number(high, digits, sign=True)}]"


def _digits(metric: str) -> int:
    return 2 if METRICS[metric].unit == "dB" else 4


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['dataset']} · {row['split']}"


def _learned(table: pd.DataFrame) -> list[str]:
    return sorted(table.loc[~table["arm"].isin(REFERENCE_ARMS), "codec"].unique()) if len(table) else []


def rate_label(name: str, rate: float) -> str:
    """`λ 0.013`, `channels 8` or `quality 80`."""
    return f"{'λ' if name == 'lmbda' else name} {rate:g}"


def _present(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    return [n for n in names if n in table.columns and table[n].notna().any()]


def _round(value: Any, places: int = 5) -> float | None:
    return round(float(value), places) if value is not None and math.isfinite(float(value)) else None


def curve_data(curves: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The curves for the chart: looks and points; values on the scale that curves are compared on."""
    codecs = _learned(curves)
    drawn = []
    for key, curve in curves.groupby(list(CURVE_KEYS), sort=True, dropna=False):
        first = dict(zip(CURVE_KEYS, (str(k) for k in key), strict=True))
        style = look(first["codec"], first["arm"], first["maps"], first["variant"], codecs)
        points = []
        for row in records(curve.sort_values("bpp")):
            values = {}
            for metric in metrics:
                raw = np.array([row[metric], row[f"{metric}_low"], row[f"{metric}_high"]], np.float64)
                if math.isfinite(raw[0]):
                    values[metric] = [_round(v, 4) for v in to_decibel(metric, raw)]
            points.append(
                {
                    "rate": rate_label(row["rate_name"], row["rate"]),
                    "bpp": [_round(row[c]) for c in ("bpp", "bpp_low", "bpp_high")],
                    "raw": {m: _round(row[m]) for m in metrics if METRICS[m].decibel},
                    "values": values,
                    "n": int(row["n_images"]),
                    "seeds": int(row["n_seeds"]),
                    "runs": str(row.get("mlflow_run_ids") or "").split(),
                }
            )
        drawn.append(
            {
                "place": _place(first),
                "label": style.label,
                "codec": first["codec"],
                "arm": first["arm"],
                "maps": first["maps"],
                "open": first["maps"] not in ("none", "predicted"),
                "train": f"{first['train_dataset']}/{first['preset']}/{first['codec']}",
                "baseline": first["arm"] == BASELINE,
                "classical": style.classical,
                "control": first["maps"] not in ("none", "predicted"),
                "colour": style.colour,
                "dash": list(style.dash),
                "marker": style.marker,
                "points": points,
            }
        )
    drawn.sort(key=lambda c: (bool(c["classical"]), not c["baseline"], bool(c["control"]), str(c["label"])))
    return drawn


def _bd_groups(rates: pd.DataFrame) -> list[dict[str, Any]]:
    """The BD table in three parts, each row ready to print, with its look and bar."""
    codecs = sorted(rates["codec"].unique())
    parts: dict[str, list[dict[str, Any]]] = {"arms": [], "controls": [], "classical": []}
    maps_order = {m: i for i, m in enumerate(("predicted", "oracle", "center", "shuffled"))}
    ordered = rates.assign(_maps=rates["maps"].map(maps_order).fillna(9)).sort_values(
        ["dataset", "split", "codec", "test_arm", "variant", "_maps", "anchor_arm"], kind="stable"
    )
    for row in records(ordered):
        part = (
            "arms"
            if row["anchor_arm"] == BASELINE
            else "classical"
            if row["test_arm"] == BASELINE
            else "controls"
        )
        style = look(row["codec"], row["test_arm"], row["maps"], row["variant"], codecs)
        known = math.isfinite(row["ci_low"])
        sure = known and (row["ci_high"] < 0 or row["ci_low"] > 0)
        parts[part].append(
            {
                **row,
                "place": _place(row),
                "label": style.label,
                "colour": style.colour,
                "control": row["maps"] not in ("none", "predicted"),
                "rate_text": percent(row["bd_rate_percent"]) if row["status"] != "refused" else "refused",
                "interval_text": interval(row["ci_low"], row["ci_high"]),
                "quality_text": number(row["bd_quality_db"], 2, sign=True, unit="dB"),
                "overlap_text": number(100 * row["overlap"], 0, unit="%"),
                "tone": ("good" if row["ci_high"] < 0 else "bad") if sure else "open",
                "bar": {k: _round(row[c], 3) for k, c in zip("vlh", ("bd_rate_percent", "ci_low", "ci_high"), strict=True)},
            }
        )  # fmt: skip
    titles = {
        "arms": (
            "Arms against uniform",
            "Same codec, trunk, data and training; below 0 the arm needs fewer bits.",
        ),
        "controls": (
            "Predicted maps against the same mechanism with other maps",
            "Below 0 the prediction earns something that a control does not; against oracle, above 0 is what better maps could add.",
        ),
        "classical": (
            "Learned baseline against classical codecs and others’ curves",
            "Below 0 the learned codec needs fewer bits. Published curves are compared by their points alone, without an interval.",
        ),
    }
    return [
        {
            "id": k,
            "title": titles[k][0],
            "about": titles[k][1],
            "rows": v,
            "notes": any(r["reason"] for r in v),
        }
        for k, v in parts.items()
        if v
    ]


_MAP_WORDS = {
    "predicted": "predicted maps",
    "oracle": "people’s own fixations (ceiling)",
    "center": "centre bias (control)",
    "shuffled": "another picture’s map (control)",
    "people": "people’s own fixations (ceiling)",
    "half_people": "half of the people, the other half measures",
}


def _control_tables(rates: pd.DataFrame, ideal: pd.DataFrame) -> list[dict[str, Any]]:
    """For each arm: its maps beside each other, with gain, cost, the ideal of those maps and the share reached."""
    share = share_of_ideal(rates, ideal) if len(ideal) else pd.DataFrame()
    rows = rates[(rates["method"] == METHOD) & (rates["anchor_arm"] == BASELINE)]
    tables = []
    keys = ["dataset", "split", "train_dataset", "codec", "preset", "variant", "test_arm"]
    for key, group in rows.groupby(keys, sort=True, dropna=False):
        names = dict(zip(keys, (str(k) for k in key), strict=True))
        metric = "ew_psnr_db" if (group["metric"] == "ew_psnr_db").any() else "sw_psnr_db"
        lines = []
        for maps in ("predicted", "oracle", "center", "shuffled"):
            mine = {r["metric"]: r for r in records(group[group["maps"] == maps])}
            if metric not in mine:
                continue
            reached = pd.DataFrame()
            if len(share):
                match = (share["maps"] == maps) & (share["metric"] == metric)
                for column in keys:
                    match &= share[column] == names[column]
                reached = share[match]
            best = ideal[(ideal["conditioning"] == MAPS_OF_CONDITIONING[maps]) & (ideal["metric"] == metric)]
            main, plain = mine[metric], mine.get("psnr_db")
            lines.append(
                {
                    "maps": _MAP_WORDS[maps],
                    "main": main,
                    "rate_text": percent(main["bd_rate_percent"]) if main["status"] != "refused" else "refused",
                    "interval_text": interval(main["ci_low"], main["ci_high"]),
                    "plain_text": percent(plain["bd_rate_percent"]) if plain else "–",
                    "plain_interval": interval(plain["ci_low"], plain["ci_high"]) if plain else "–",
                    "gain_text": number(main["bd_quality_db"], 2, sign=True, unit="dB"),
                    "ideal_text": number(best["gain_db"].iloc[0], 2, sign=True, unit="dB") if len(best) else "–",
                    "cost_text": number(plain["bd_quality_db"], 2, sign=True, unit="dB") if plain else "–",
                    "ideal_cost_text": number(-best["cost_db"].iloc[0], 2, sign=True, unit="dB") if len(best) else "–",
                    "share_text": number(100 * reached["share"].iloc[0], 0, unit="%") if len(reached) else "–",
                    "bar": {k: _round(main[c], 3) for k, c in zip("vlh", ("bd_rate_percent", "ci_low", "ci_high"), strict=True)},
                    "colour": look(names["codec"], names["test_arm"], maps).colour,
                }
            )  # fmt: skip
        if lines:
            tables.append(
                {**names, "place": _place(names), "metric": METRICS[metric].label, "lines": lines,
                 "label": look(names["codec"], names["test_arm"], "predicted", names["variant"], sorted(rates["codec"].unique())).label}
            )  # fmt: skip
    return tables


def _ideal_lines(ideal: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "conditioning": _MAP_WORDS[row["conditioning"]],
            "measured_on": "people’s fixations"
            if row["measured_on"] == "fixations"
            else "predicted saliency",
            "gain_text": number(row["gain_db"], 2, sign=True, unit="dB"),
            "interval_text": interval(row["gain_low"], row["gain_high"], 2),
            "cost_text": number(-row["cost_db"], 2, sign=True, unit="dB"),
            "n": int(row["n_images"]),
        }
        for row in records(ideal)
    ]


def _point_rows(curves: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    codecs = _learned(curves)
    rows = []
    for row in records(curves.sort_values(["dataset", "split", "codec", "arm", "maps", "bpp"])):
        rows.append(
            {
                "place": _place(row),
                "label": look(row["codec"], row["arm"], row["maps"], row["variant"], codecs).label,
                "codec": row["codec"],
                "rate": rate_label(row["rate_name"], row["rate"]),
                "bpp": number(row["bpp"], 4),
                "bpp_estimate": number(row["bpp_estimate"], 4),
                "values": [number(row[m], _digits(m)) for m in metrics],
                "intervals": [interval(row[f"{m}_low"], row[f"{m}_high"], _digits(m)).replace("+", "") for m in metrics],
                "n": int(row["n_images"]),
                "seeds": int(row["n_seeds"]),
                "runs": str(row.get("mlflow_run_ids") or "").split(),
            }
        )  # fmt: skip
    return rows


class _Pictures:
    """Pictures as data URIs, each stored once; what was encoded stays known when a plan starts over."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._place: dict[str, int] = {}
        self._made: dict[tuple[object, ...], str] = {}

    def start(self) -> None:
        """Forget which pictures are on the page, not how they are written."""
        self.uris = []
        self._place = {}

    def add(self, name: tuple[object, ...], make: Callable[[], Picture], *, quality: int | None) -> int:
        """Index of the URI of the picture of this name: lossless WebP, or lossy at a quality."""
        key = (*name, quality)
        if key not in self._made:
            buffer = io.BytesIO()
            image = Image.fromarray(np.ascontiguousarray(make()))
            if quality is None:
                # method 0 is 20 times faster than 4, for a tenth more bytes
                image.save(buffer, "WEBP", lossless=True, quality=20, method=0)
            else:
                image.save(buffer, "WEBP", quality=quality, method=2)
            self._made[key] = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
        uri = self._made[key]
        if uri not in self._place:
            self._place[uri] = len(self.uris)
            self.uris.append(uri)
        return self._place[uri]

    @property
    def size(self) -> int:
        return sum(map(len, self.uris))


def _overlay(picture: Picture, weights: NDArray[Any]) -> Picture:
    """The map over a grey picture, from dark violet (nothing) to yellow (most); readable without colour vision."""
    peak = float(weights.max()) or 1.0
    heat = cv2.applyColorMap(
        np.round(np.asarray(weights, np.float64) / peak * 255).astype(np.uint8), cv2.COLORMAP_INFERNO
    )
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    mixed = 0.35 * grey + 0.65 * cv2.cvtColor(heat, cv2.COLOR_BGR2RGB).astype(np.float32)
    return np.round(mixed).astype(np.uint8)  # fmt: skip


def _whole(picture: Picture) -> Picture:
    scale = _WHOLE_WIDTH / picture.shape[1]
    if scale >= 1:
        return picture
    size = (_WHOLE_WIDTH, max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _choose_shots(item: GalleryItem) -> list[tuple[str, list[GalleryShot]]]:
    """For each rate its learned shots, baseline first, and each classical codec at the file nearest in bytes."""
    learned = [s for s in item.shots if s.arm != CLASSICAL_ARM]
    classical = [s for s in item.shots if s.arm == CLASSICAL_ARM]
    rates = sorted({(s.rate_name, s.rate) for s in learned or classical})
    if not learned:
        return [(rate_label(*at), [s for s in classical if (s.rate_name, s.rate) == at]) for at in rates]
    chosen = []
    order = ("none", "predicted", "oracle", "center", "shuffled")
    for at in rates:
        here = [s for s in learned if (s.rate_name, s.rate) == at]
        here.sort(
            key=lambda s: (
                s.codec,
                s.arm != BASELINE,
                s.arm,
                s.variant,
                order.index(s.maps) if s.maps in order else 9,
            )
        )
        target = next((s.bpp for s in here if s.arm == BASELINE), here[0].bpp)
        for codec in dict.fromkeys(s.codec for s in classical):
            here.append(
                min((s for s in classical if s.codec == codec), key=lambda s: abs(math.log(s.bpp / target)))
            )
        chosen.append((rate_label(*at), here))
    return chosen  # fmt: skip


def _gallery_data(gallery: Sequence[GalleryItem], budget: int) -> dict[str, Any]:
    """Pictures and captions for the script. Whole pictures lossless if that fits the budget, else lossy for looking
    around; crops are always the exact pixels. If even that does not fit, controls and then rates are left out.
    """
    plans = [
        (None, False, 99),
        (88, False, 99),
        (60, False, 99),
        (50, True, 99),
        (40, True, 3),
        (30, True, 1),
    ]
    pictures = _Pictures()
    for quality, drop_controls, most_rates in plans:
        pictures.start()
        items = []
        for place, item in enumerate(gallery):
            items.append(_gallery_item(place, item, pictures, quality, drop_controls, most_rates))
            if pictures.size > budget:
                break
        else:
            break
    return {"pictures": pictures.uris, "items": items, "lossless": quality is None}


_CAPTIONS = {"psnr_db": "PSNR", "sw_psnr_db": "saliency-w.", "ew_psnr_db": "eye-w.", "ms_ssim": "MS-SSIM"}


def _shot_name(shot: GalleryShot) -> tuple[object, ...]:
    return (shot.codec, shot.arm, shot.maps, shot.variant, shot.rate_name, str(shot.rate))


def _gallery_item(
    place: int,
    item: GalleryItem,
    pictures: _Pictures,
    quality: int | None,
    drop_controls: bool,
    most_rates: int,
) -> dict[str, Any]:
    weights = item.saliency_map if item.fixation_map is None else item.fixation_map
    top, left, height, width = salient_window(weights, _CROP_SIDE)
    cut = np.s_[top : top + height, left : left + width]
    codecs = sorted({s.codec for s in item.shots if s.arm != CLASSICAL_ARM})
    rates = _choose_shots(item)
    if len(rates) > most_rates:
        kept = (
            {round(p) for p in np.linspace(0, len(rates) - 1, most_rates + 2)[1:-1]}
            if most_rates > 1
            else {len(rates) // 2}
        )
        rates = [r for i, r in enumerate(rates) if i in kept]

    def panel(name: object, make: Callable[[], Picture], **about: Any) -> dict[str, Any]:
        whole = pictures.add((place, name, "whole"), lambda: _whole(make()), quality=quality)
        crop = pictures.add((place, name, "crop"), lambda: make()[cut], quality=None)
        return {"whole": whole, "crop": crop, **about}

    fixed = [
        panel("original", lambda: item.original, label="original", kind="original"),
        panel(
            "map",
            lambda: _overlay(item.original, item.saliency_map),
            label="saliency map, predicted",
            kind="map",
        ),
    ]
    eyes = item.fixation_map
    if eyes is not None:
        fixed.append(
            panel("eyes", lambda: _overlay(item.original, eyes), label="where people looked", kind="map")
        )
    shown = []
    for name, shots in rates:
        panels = []
        for shot in shots:
            if drop_controls and shot.maps not in ("none", "predicted"):
                continue
            style = look(shot.codec, shot.arm, shot.maps, shot.variant, codecs)
            values = [
                [label, number(shot.values[m], _digits(m), unit=METRICS[m].unit)]
                for m, label in _CAPTIONS.items()
                if m in shot.values and math.isfinite(shot.values[m])
            ]
            panels.append(
                panel(
                    _shot_name(shot),
                    lambda shot=shot: shot.picture,  # type: ignore[misc]
                    label=style.label,
                    kind="classical" if style.classical else "arm",
                    colour=style.colour,
                    bpp=number(shot.bpp, 3, unit="bpp"),
                    values=values,
                    rate=rate_label(shot.rate_name, shot.rate),
                )
            )
        shown.append({"rate": name, "panels": panels})
    full_height, full_width = item.original.shape[:2]
    return {
        "image": item.image,
        "fixed": fixed,
        "rates": shown,
        "size": [full_width, full_height],
        "window": [left / full_width, top / full_height, width / full_width, height / full_height],
        "crop": [width, height],
        "by": "where people looked" if item.fixation_map is not None else "the saliency map",
    }  # fmt: skip


def _answer(verdict: Verdict) -> str:
    """One sentence: on what, which arm, how many bits at equal looked-at quality and at equal PSNR, how sure."""

    if not math.isfinite(float(verdict.main["bd_rate_percent"])):
        why = str(verdict.main["reason"]) or "no common points"
        return f"On {verdict.place}: {verdict.arm} and uniform cannot be compared at equal {METRICS[verdict.metric].label}: {why}."

    def said(row: Mapping[str, Any]) -> str:
        known = interval(row["ci_low"], row["ci_high"])
        return f"{percent(row['bd_rate_percent'])}{'' if known == '–' else ' ' + known}"

    text = f"On {verdict.place}: {verdict.arm} against uniform: "
    text += f"{said(verdict.main)} rate at equal {METRICS[verdict.metric].label}"
    if verdict.plain is not None and math.isfinite(float(verdict.plain["bd_rate_percent"])):
        text += f", {said(verdict.plain)} at equal plain PSNR"
    return f"{text}. {verdict.outcome[0].upper()}{verdict.outcome[1:]}."


def metric_axes(metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the script calls each metric, and the label of its axis."""
    return {
        m: {
            "label": METRICS[m].label,
            "axis": f"{METRICS[m].label}, {'dB' if METRICS[m].unit == 'dB' else '−10·log₁₀(1 − x) dB'}",
        }
        for m in metrics
    }


def embed_json(data: Any) -> Markup:
    """JSON that can stand in a script element: no tag can end it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def inline(name: str) -> Markup:
    """Style or script as it stands in the page."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return Markup(text.replace("</", "<\\/") if name == SCRIPT else text)


def _others(curves: pd.DataFrame) -> list[str]:
    """A line on each curve from elsewhere: where it comes from."""
    said = []
    for arm, text in (
        ("published", "{codec} is published, its source: {variant}; means only, so without intervals."),
        (
            "external",
            "{variant} is a {codec} checkpoint trained elsewhere, measured here like our own codecs.",
        ),
    ):
        names = curves.loc[curves["arm"] == arm, ["codec", "variant"]].drop_duplicates()
        said += [text.format(**r) for r in records(names)]
    return said


def _provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in provenance.items():
        if key == "mlflow_run_url" or value in ("", None, [], ()):
            continue
        rows.append((str(key), "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return rows


def render_report(
    *,
    curves: pd.DataFrame,
    rates: pd.DataFrame,
    ideal: pd.DataFrame | None = None,
    gallery: Sequence[GalleryItem] = (),
    provenance: Mapping[str, Any] | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> str:
    """The whole page as one string.

    curves, rates, ideal: as `rd_curves`, `bd_rates` and `ideal_rows` give them (other columns are ignored). gallery: a few pictures. provenance: what to print about where the numbers come from, in order; `sweep` also names the page,
    and `mlflow_run_url`, a text with `{run_id}` in it, turns run ids into links. budget_bytes: what the gallery's
    pictures may take.
    """
    provenance = dict(provenance or {})
    ideal = pd.DataFrame(columns=["conditioning", "metric"]) if ideal is None else ideal
    if shared := shared_parts(curves):
        # said once, among what the page says of its origin, instead of in every label
        provenance["common to all arms"] = ", ".join(shared)
        curves, rates, ideal = (without_parts(table, shared) for table in (curves, rates, ideal))
        gallery = [
            dataclasses.replace(
                item,
                shots=[
                    shot
                    if shot.arm in REFERENCE_ARMS
                    else dataclasses.replace(shot, variant=without(shot.variant, shared))
                    for shot in item.shots
                ],
            )
            for item in gallery
        ]
    metrics = _present(curves, CURVE_METRICS)
    bd_metrics = [m for m in CURVE_METRICS if m in set(rates["metric"])] or list(BD_METRICS[:1])
    verdicts = find_verdicts(rates)
    # the page opens with the first metric: a dataset that has it comes first
    with_it = {_place(r) for r in records(curves) if metrics and pd.notna(r[metrics[0]])}
    places = sorted({_place(r) for r in records(curves)}, key=lambda place: (place not in with_it, place))
    data = {
        "curves": curve_data(curves, metrics),
        "metrics": metric_axes(metrics),
        "gallery": _gallery_data(gallery, budget_bytes),
        "against": "uniform",
        "runUrl": str(provenance.get("mlflow_run_url") or ""),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(percent=percent, interval=interval, number=number, label_arm=label_arm)
    shown_values = metrics + _present(curves, INDICES)
    return environment.get_template(TEMPLATE).render(
        title=str(provenance.get("sweep") or "rate–distortion evidence"),
        style=inline(STYLE),
        script=inline(SCRIPT),
        data=embed_json(data),
        # verdicts come best first: one sentence a dataset
        answers=[_answer(v) for v in {v.place: v for v in reversed(verdicts)}.values()],
        verdicts=[dataclasses.asdict(v) | {"tone": v.tone, "metric_label": METRICS[v.metric].label} for v in verdicts],
        places=places,
        metrics=[(m, METRICS[m].label) for m in metrics],
        bd_metrics=[(m, METRICS[m].label) for m in bd_metrics],
        methods=sorted(set(rates["method"]), reverse=True),
        groups=_bd_groups(rates),
        controls=_control_tables(rates, ideal),
        ideal=_ideal_lines(ideal) if "gain_db" in ideal.columns else [],
        ideal_setting=records(ideal[["alpha", "gamma"]].drop_duplicates()) if "alpha" in ideal.columns else [],
        values=[(METRICS[m].label, METRICS[m].unit) for m in shown_values],
        points=_point_rows(curves, shown_values),
        gallery=len(gallery),
        provenance=_provenance_rows(provenance),
        run_url=str(provenance.get("mlflow_run_url") or ""),
        others=_others(curves),
        n_images=int(curves["n_images"].max()) if len(curves) else 0,
        n_seeds=int(curves["n_seeds"].max()) if len(curves) else 0,
        eyes="ew_psnr_db" in metrics,
    )  # fmt: skip
