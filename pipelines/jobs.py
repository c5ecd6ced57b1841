"""Jobs to launch from the UI: a dataset's frames, a sweep's codecs, the report."""

import dagster as dg

frames_job = dg.define_asset_job(
    "frames",
    selection=dg.AssetSelection.assets("source_frames", "resized_frames", "saliency_maps", "rgba_frames"),
    description="One dataset: files → resized frames → saliency maps → RGBA PNGs. Only what changed is processed.",
)
benchmark_job = dg.define_asset_job(
    "benchmark",
    selection=dg.AssetSelection.assets("fixation_maps", "saliency_benchmark"),
    description="How well each saliency model predicts where people looked, on one dataset with fixations.",
)
saliency_job = dg.define_asset_job(
    "saliency_training",
    selection=dg.AssetSelection.assets("saliency_model"),
    description="One training of a saliency model.",
)
classical_job = dg.define_asset_job(
    "classical",
    selection=dg.AssetSelection.assets("classical_rd_points"),
    description="The classical codecs on one dataset.",
)
trunk_job = dg.define_asset_job(
    "trunk", selection=dg.AssetSelection.assets("trunk_codec"), description="One trunk."
)
experiment_job = dg.define_asset_job(
    "experiment", selection=dg.AssetSelection.assets("trained_codec"), description="One experiment."
)
evaluation_job = dg.define_asset_job(
    "evaluation",
    selection=dg.AssetSelection.assets("rd_points"),
    description="One experiment on one dataset.",
)
report_job = dg.define_asset_job(
    "tables",
    selection=dg.AssetSelection.assets("rd_curves", "bd_rates", "report"),
    description="Tables and report of one dataset's sweep, from what has been measured.",
)

JOBS = [
    frames_job,
    benchmark_job,
    saliency_job,
    classical_job,
    trunk_job,
    experiment_job,
    evaluation_job,
    report_job,
]
