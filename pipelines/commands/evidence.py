"""`fovea compare`, `curves`, `evaluate`, `benchmark`: what is held against what."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.errors import FoveaError
from models.mechanisms import MAX_SPAN
from pipelines.commands import options
from pipelines.commands.options import PATH, chain_here, write_page

if TYPE_CHECKING:
    from assets.chain import Chain
    from assets.evaluation.benchmark import Benchmark


@click.command()
@click.argument("first")
@click.argument("second")
def compare(first: str, second: str) -> None:
    """Hold two sweeps against each other, curve by curve: did a change help?

    \b
    FIRST and SECOND are DATASET.SWEEP; DATASET.SWEEP~1 is that sweep as its tables were made before the current time
    (~2: before that), and a kept table of points (tables/rd_points.parquet) will do, too.
      fovea compare sample.smoke~1 sample.smoke      before and after a change
      fovea compare osie.smoke osie.seed             two sweeps on the same pictures
    Below 0, SECOND needs fewer bits for the same quality. Exit code 1 when no two curves can be compared.
    """
    from assets.evaluation.compare import compare_points
    from assets.evaluation.sides import read_side
    from assets.evaluation.summary import compare_lines

    chain = chain_here(tracking=False)
    before, after = read_side(chain, first), read_side(chain, second)
    rates = compare_points(before.points, after.points, list_only_before=before.whole, list_only_after=after.whole)
    if rates.empty:
        raise FoveaError(f"{first} and {second} have no curve in common, or only the same classical codecs")
    click.echo(f"first   {before.about}\nsecond  {after.about}\n\n{compare_lines(rates)}")
    if (rates.status == "refused").all() and not rates.same_files.all():
        sys.exit(1)


@click.group(cls=options.Group)
def curves() -> None:
    """Curves from elsewhere, drawn dashed beside what is measured here; and a sweep's own, for other programs."""


@curves.command("import")
@click.argument("file", type=PATH)
@click.option("--dataset", required=True, help="The registered dataset that the curve was measured on.")
@click.option("--source", default="", help="Where it is from, as the report names it; default: the file's name.")
def import_(file: Path, dataset: str, source: str) -> None:
    """Keep curves of FILE: CompressAI's results (JSON), or a CSV with the columns codec, bpp, psnr_db[, ms_ssim].

    \b
    They lie under FOVEA_CONFIG/curves; another one of the same name is refused. BD-rates against them have no interval: nobody knows their pictures.
      fovea curves import results/kodak/compressai-mbt2018-mean_mse_cuda.json --dataset kodak
    """
    from assets.evaluation.published import keep_curves, read_curves

    chain = chain_here(tracking=False)
    chain.world.dataset(dataset)
    curves = read_curves(file, dataset, source)
    for curve, path in zip(curves, keep_curves(chain.home.config, curves), strict=True):
        click.echo(f"{curve.name}: {len(curve.points)} points, {path}")


@curves.command("list")
def list_() -> None:
    """All published curves."""
    from assets.evaluation.published import published_curves

    chain = chain_here(tracking=False)
    found = [(d, curve) for d in chain.world.registry for curve in published_curves(chain.home.config, d)]
    none = "no published curve is here (fovea curves import FILE --dataset NAME)"
    click.echo(f"{'dataset':16} {'curve':32} points" if found else none)
    for dataset, curve in found:
        rates = f"{curve.points[0][0]:.3f} to {curve.points[-1][0]:.3f} bpp"
        click.echo(f"{dataset:16} {curve.name:32} {len(curve.points)}, {rates}  {curve.source}")


@curves.command()
@click.argument("sweep", metavar="DATASET.SWEEP")
@click.option(
    "--output",
    "-o",
    type=PATH,
    required=True,
    help="FILE.tex: LaTeX. Otherwise a folder: a JSON file a curve, as CompressAI's results.",
)
@click.option("--metric", default="psnr_db", show_default=True, help="Of LaTeX's plot and BD-rates.")
def export(sweep: str, output: Path, metric: str) -> None:
    """Write curves of a sweep, or of DATASET.benchmark, for other programs and papers.

    \b
      fovea curves export sample.smoke -o curves/       CompressAI's JSON; fovea curves import reads it
      fovea curves export sample.smoke -o curves.tex    a pgfplots figure and a booktabs table of BD-rates
    """
    from assets.evaluation.export import EXPORTED, compressai_results, latex
    from assets.evaluation.tables import curves_and_rates
    from assets.home import check_ours

    if output.suffix not in ("", ".tex") and not output.is_dir():
        raise FoveaError(
            f"{output} has the name of a file: each curve is a JSON file of its own; name a folder for them, or a FILE.tex "
            "(FOVEA_HOME/tables/rd_curves.csv has all curves as CSV)"
        )
    chain = chain_here(tracking=False)
    rows, rates = curves_and_rates(chain, sweep)
    if output.suffix == ".tex":
        files = {output: latex(rows, rates, metric)}
    else:
        files = {output / name: text for name, text in compressai_results(rows).items()}
    for path in files:
        check_ours(path, EXPORTED)
    for path, text in files.items():
        write_page(path, text)
        click.echo(f"written {path}")


@curves.command()
@click.argument("name")
@click.option("--dataset", required=True)
def remove(name: str, dataset: str) -> None:
    """Forget a published curve."""
    from assets.evaluation.published import forget_curve

    forget_curve(chain_here(tracking=False).home.config, dataset, name)
    click.echo(f"forgot {name} of {dataset}")


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=PATH)
@click.option(
    "--codec", required=True, help="bmshj2018_factorized, bmshj2018_hyperprior, mbt2018_mean, cheng2020_anchor."
)
@click.option("--dataset", required=True, help="A registered dataset (fovea datasets list).")
@click.option("--name", default="", help="What its curve is called; default: the codec's name.")
@click.option(
    "--quality",
    "qualities",
    type=options.Number(),
    multiple=True,
    help="Orders the points of a curve; once for each checkpoint, in their order. Default: from the file's name, else 1.",
)
@options.threads
def evaluate(
    checkpoints: tuple[Path, ...], codec: str, dataset: str, name: str, qualities: tuple[float, ...], threads: int
) -> None:
    """Measure CompressAI checkpoints (.pth, .pth.tar, .safetensors) on a dataset, beside our own codecs.

    \b
    Each checkpoint is a point of one curve. The rows join rd_points, and the plots and tables of the dataset's sweeps.
      fovea evaluate bmshj2018-hyperprior-*.pth.tar --codec bmshj2018_hyperprior --dataset kodak
      fovea evaluate low.pth high.pth --quality 1 --quality 2 --codec mbt2018_mean --dataset kodak
    """
    from assets.evaluation.checkpoints import keep_external, kept_when_measured
    from assets.evaluation.pieces import POINTS
    from assets.evaluation.rate_distortion import rd_curves
    from assets.evaluation.summary import curve_lines
    from assets.evaluation.tables import write_tables
    from models.codecs.external import load_checkpoint
    from pipelines.commands.runs import make_stale

    chain = chain_here(threads)
    chain.world.dataset(dataset)
    if qualities and len(qualities) != len(checkpoints):
        raise FoveaError(
            f"{len(checkpoints)} checkpoints and {len(qualities)} --quality: give one for each, in their order"
        )
    for path in checkpoints:
        load_checkpoint(path, codec)  # a wrong file is refused before anything is written or measured
    with kept_when_measured(chain.home.config, dataset, name or codec):
        files = list(zip(checkpoints, qualities or [None] * len(checkpoints), strict=True))
        external = keep_external(chain.home.config, dataset, codec, files, name)
        wanted = chain.upstream(("external_rd_points", external.partition))
        if make_stale(chain, external.partition, wanted, threads=threads):
            raise FoveaError(f"{external.partition} could not be measured; what failed is said above")
    chain.forget()
    made = chain.given["external_rd_points", external.partition]
    write_tables(chain)
    click.echo(curve_lines(rd_curves(made.table(POINTS), resamples=2)))
    for file in external.files:
        click.echo(f"quality {file.quality:g}: sha256 {file.sha256}")
    click.echo(f"fovea run --dataset {dataset} brings it into plots and report")


@click.command()
@options.dataset
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    metavar="NAME",
    help="A shipped codec, or an experiment's key (fovea status --keys); may be repeated. Default: all that ship.",
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="NAME",
    help="Also ask a judge that an extra installs: ocr and ocr_v4 (what can still be read), ssimulacra2, butteraugli, vmaf, cvvdp.",
)
@click.option("--peers", default="", help="Of jpeg,webp,avif,jpegxl,… those to show; default: the dataset's.")
@click.option(
    "--cuts", is_flag=True, help="Instead, cut progressive files of one codec at many places, in several orders."
)
@click.option(
    "--span",
    "spans",
    type=options.Number(0, MAX_SPAN),
    multiple=True,
    help="With --cuts: saliency order at this span, too.",
)
@click.option(
    "--name",
    default="",
    metavar="NAME",
    help="Write benchmark-NAME in place of benchmark; what was written under the same name is replaced.",
)
@options.threads
@options.device
def benchmark(
    dataset: str,
    codecs: tuple[str, ...],
    judges: tuple[str, ...],
    peers: str,
    cuts: bool,
    spans: tuple[float, ...],
    name: str,
    threads: int,
    device: str,
) -> None:
    """Hold codecs against each other and against JPEG, WebP, AVIF and JPEG XL on a dataset, without training any.

    \b
    Test pictures are enough. Each codec uniform and guided by saliency, where it can be; CompressAI checkpoints that
    fovea evaluate has seen on the dataset are in.
      fovea datasets add kodak ~/kodak --test '*' && fovea benchmark --dataset kodak --codec light
    Writes FOVEA_HOME/tables/benchmark.DATASET.{csv,parquet} and reports/DATASET.benchmark.html; with --cuts
    tables/cuts.DATASET.{csv,parquet} and a page with a slider over bytes, reports/DATASET.cuts.html.
    """
    if not re.fullmatch(r"[a-z0-9_-]{0,40}", name):
        raise FoveaError(f"--name {name!r}: small letters, digits, - and _, at most 40")
    name = "-".join(filter(None, ("cuts" if cuts else "benchmark", name)))
    if cuts:
        if judges or peers:
            raise FoveaError("--judge and --peers do not go with --cuts")
        _benchmark_cuts(dataset, codecs, spans, threads, name)
        return
    if spans:
        raise FoveaError("--span goes with --cuts")
    from assets.evaluation.report_tables import answers
    from assets.evaluation.summary import bd_lines, shortened
    from assets.evaluation.tables import keep_table

    chain = chain_here(threads, device)
    found = benchmark_made(chain, dataset, codecs, [p for p in peers.split(",") if p], judges, threads)
    for line in found.lines:
        click.echo(line)
    _, rates, common = shortened(found.curves, found.rates)
    click.echo("\n" + "\n".join(filter(None, (bd_lines(rates), common))) + "\n")
    for sentence in answers(rates):
        click.secho(sentence, bold=True)
    table, target = f"{name}.{dataset}", chain.home.reports / f"{dataset}.{name}.html"
    keep_table(chain.home.tables, table, found.rates)
    keep_table(chain.home.tables, f"{table}.points", found.points)
    write_page(target, found.page)
    click.echo(f"tables  {chain.home.tables / table}.csv, {table}.points.csv\npage    {target.as_uri()}")


def _benchmark_cuts(dataset: str, codecs: Sequence[str], spans: Sequence[float], threads: int, name: str) -> None:
    from assets.evaluation.cuts import check_cuttable, cut_lines, measure_cuts
    from assets.evaluation.cuts_page import cuts_page
    from assets.evaluation.tables import keep_table
    from pipelines.commands.runs import make_stale
    from pipelines.terminal import shown

    if len(codecs) > 1:
        raise FoveaError("--cuts is of one codec: give one --codec")
    chain = chain_here(threads, tracking=False)
    chain.world.dataset(dataset)
    codec = options.codec_named(codecs[0] if codecs else "light")
    check_cuttable(codec)
    if make_stale(chain, f"frames of {dataset}", chain.upstream(("rgba_frames", dataset)), threads=threads):
        raise FoveaError(f"the frames of {dataset} could not be made; what failed is said above")
    chain.forget()
    with shown("cuts") as progress:
        found = measure_cuts(chain, dataset, codec, spans=spans, threads=chain.threads, progress=progress)
    keep_table(chain.home.tables, f"{name}.{dataset}", found.points)
    click.echo(cut_lines(found))
    target = chain.home.reports / f"{dataset}.{name}.html"
    write_page(target, cuts_page(found, f"{dataset}, {codec.config.codec}"))
    click.echo(f"\ntables  {chain.home.tables / f'{name}.{dataset}'}.csv\npage    {target.as_uri()}")


def benchmark_made(
    chain: "Chain",
    dataset: str,
    codecs: Sequence[str],
    peers: Sequence[str],
    judges: Sequence[str] = (),
    threads: int = 0,
) -> "Benchmark":
    """What `benchmark` shows, made first where it is stale. Raises FoveaError for names that are not known, and where
    something could not be made."""
    from assets.evaluation.benchmark import benchmark_of, chosen
    from pipelines.commands.runs import make_stale
    from pipelines.terminal import shown

    wanted = chosen(chain.world, dataset, codecs, peers, judges)
    if make_stale(chain, f"benchmark of {dataset}", chain.upstream(*wanted), threads=threads):
        raise FoveaError(f"the benchmark of {dataset} could not be made; what failed is said above")
    chain.forget()
    with shown("judges") as progress:
        return benchmark_of(chain, dataset, wanted, peers, judges, progress)
