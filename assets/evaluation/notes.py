"""What a person reads first of a run in the tracker: its description in Markdown, the figures rounded, and where else to look."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.evaluation.numerals import counted, digits, number, with_interval
from models.experiments import Experiment
from models.judges import KNOWN
from models.sweeps import Sweep
from models.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd

NOTE = "mlflow.note.content"
#: metrics of a codec that a sentence has room for
SAID = ("psnr_db", "ew_psnr_db", "sw_psnr_db")


def page(address: str) -> str:
    """An address of the tracker's own pages as its descriptions have it, which holds wherever they are shown. "" stays so."""
    return address[address.index("#") :] if "#" in address else ""


def link(words: str, address: str) -> str:
    """Markdown: words that lead to an address, or plain where there is none."""
    return f"[{words}]({address})" if address else words


def in_dagster(tracker: Tracker, stage: str, partition: str) -> str:
    """Where Dagster shows an artifact, in Markdown."""
    return f"in Dagster the asset `{stage}`, partition {link(f'`{partition}`', tracker.asset_url(stage, partition))}"


def figures_said(means: Sequence[Mapping[str, float]]) -> str:
    """`**0.414 bpp, 28.02 dB PSNR**, …`; of several rates from the least to the highest. means: by rate, at least one."""

    def from_to(name: str, places: int) -> str:
        values = [mean[name] for mean in means if name in mean]
        return " … ".join(dict.fromkeys(number(end, places) for end in (min(values), max(values))))

    known = [name for name in SAID if any(name in mean for mean in means)]
    quality = [f"{from_to(name, digits(name))} dB {KNOWN[name].label}" for name in known]
    said = ", ".join([f"{from_to('bpp', 3)} bpp", *quality])
    return f"**{said}**"


def report_link(tracker: Tracker, run_id: str) -> str:
    """To the report among the artifacts of a sweep's run, in Markdown."""
    return link("The report", page(tracker.run_url(run_id)).replace("?", "/artifacts/report/report.html?", 1))


def training_note(
    tracker: Tracker,
    sweep: Sweep,
    experiment: Experiment,
    means: Sequence[Mapping[str, float]],
    row: Mapping[str, Any] | None,
) -> str:
    """A training's figures on the test pictures. means: by rate. row: of `bd_rates`, its arm against `uniform`."""
    said = [f"{figures_said(means)} on the test pictures of `{experiment.evaluate_on[0]}`." if means else ""]
    if row is not None:
        said.append(
            f"Bits of its curve against `uniform` at equal {KNOWN[str(row['metric'])].label}: **{with_interval(row)}**."
        )
    run_id = tracker.run_id(f"sweep {sweep.key}")
    table = link(f"the run table of sweep {sweep.key}", page(tracker.table_url(run_id, sweep.key)))
    where = " · ".join((report_link(tracker, run_id), table, in_dagster(tracker, "trained_codec", experiment.key)))
    return "\n\n".join(filter(None, (" ".join(filter(None, said)), where)))


def sweep_note(tracker: Tracker, sweep: Sweep, run_id: str, headline: str, answers: Sequence[str]) -> str:
    """What a sweep found, then where it stands, then what it asks and each answer."""
    table = link("the run table", page(tracker.table_url(run_id, sweep.key)))
    where = " · ".join((report_link(tracker, run_id), table, in_dagster(tracker, "report", sweep.key)))
    rest = (
        "The report is `report/report.html` among the artifacts, curves and tables beside it; on disk it is "
        f"`FOVEA_HOME/reports/{sweep.key}.html`."
    )
    return "\n\n".join([f"**{headline}**", where, sweep.about, "\n".join(f"- {answer}" for answer in answers), rest])


def model_note(tracker: Tracker, sweep: Sweep, name: str, best: Experiment, why: str, points: "pd.DataFrame") -> str:
    """Of a registered codec: which it is, why it was chosen, what it does, how it is loaded, where more stands. points: its
    own."""
    by_rate = points.groupby("rate")[["bpp", "psnr_db"]].mean()
    said = ", ".join(f"{row.bpp:.3f} bpp at {row.psnr_db:.2f} dB PSNR" for _, row in by_rate.iterrows())
    told = [f"at the rate {best.rates[0]:g}"] if len(best.rates) == 1 else ["the param `lmbda` is the rate"]
    told += [] if best.maps == "none" else ["with the column `saliency_map` (without it every place is alike)"]
    pictures = counted(points.image.nunique(), "test picture")
    return (
        f"The codec that sweep `{sweep.key}` found best: `{best.key}`. {why} On {pictures} of `{best.evaluate_on[0]}`, "
        f"{', '.join(told)}: {said}. `mlflow.pyfunc.load_model('models:/{name}@best')` loads it where Fovea is not installed."
        f"\n\n{report_link(tracker, tracker.run_id(f'sweep {sweep.key}'))} · {in_dagster(tracker, 'trained_codec', best.key)}"
    )
