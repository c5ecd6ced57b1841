"""What must hold of frames. Each check reads what the stage made and says its numbers."""

import dagster as dg

from assets.chain import Made

FRESH_DAYS = 30
ARCHIVE = [
    dg.AssetCheckSpec(
        "official_counts",
        asset="cityscapes_archive",
        blocking=True,
        description="2975, 500 and 1525 frames under their official names; whole cities may be absent in a subset.",
    ),
    dg.AssetCheckSpec(
        "fresh",
        asset="cityscapes_archive",
        description="The site was asked within 30 days, and it offers what is here. The user's own archive passes.",
    ),
]
SOURCE = [
    dg.AssetCheckSpec(
        "splits_present",
        asset="source_frames",
        blocking=True,
        description="There are pictures to train on and pictures to measure on.",
    ),
    dg.AssetCheckSpec(
        "nothing_quarantined",
        asset="source_frames",
        description="Every file is a picture that Fovea can read.",
    ),
]
RESIZED = [
    dg.AssetCheckSpec(
        "no_frame_lost",
        asset="resized_frames",
        blocking=True,
        description="Every usable source frame has an array or a reason.",
    ),
    dg.AssetCheckSpec(
        "sizes_hold",
        asset="resized_frames",
        blocking=True,
        description="No array is larger than its source; fixed-size datasets have one size.",
    ),
    dg.AssetCheckSpec(
        "nothing_quarantined",
        asset="resized_frames",
        description="Every usable source frame could be decoded.",
    ),
]


def check_archive(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of cityscapes_archive."""
    import time

    from assets.frames.archive_stage import last_answer
    from assets.home import Home

    counts, facts = made.manifest["meta"]["counts"], made.facts
    listed = "\n".join(f"- {name}: `{line}`" for name in ("missing", "extra") for line in counts[name])
    results = [
        dg.AssetCheckResult(
            check_name="official_counts",
            passed=bool(counts["ok"]),
            metadata={
                "detail": str(counts["message"]),
                "frames": facts["frames"],
                **({"which": dg.MetadataValue.md(listed)} if listed else {}),
            },
        )
    ]
    if not facts["downloaded"]:
        return [*results, _fresh(True, "your own archive or tree: the site is not asked")]
    answer = last_answer(Home.from_environment())
    if answer is None:
        return [*results, _fresh(False, "the site was never asked whether it changed")]
    days = (time.time() - answer[0]) / 86400
    if answer[1] != facts["md5"]:
        return [*results, _fresh(False, f"the site offers another archive (md5 {answer[1]})")]
    return [*results, _fresh(days < FRESH_DAYS, f"the site was asked {days:.1f} days ago: unchanged")]


def _fresh(passed: bool, detail: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="fresh", passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata={"detail": detail}
    )


def check_source(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of source_frames."""
    import pandas as pd

    table = pd.read_parquet(made.folder / "frames.parquet")
    good = table[table.status == "ok"]
    counts = {s: int((good.split == s).sum()) for s in ("train", "val", "test")}
    measured = counts["test"] or counts["val"]
    return [
        dg.AssetCheckResult(
            check_name="splits_present", passed=bool(counts["train"] or measured), metadata=dict(counts)
        ),
        _quarantine(made),
    ]


def check_resized(made: Made) -> list[dg.AssetCheckResult]:
    """Checks of resized_frames."""
    import pandas as pd

    table = pd.read_parquet(made.folder / "frames.parquet")
    good = table[table.status == "ok"]
    lost = table[(table.status == "ok") & (table.frame_height == 0)]
    larger = good[(good.frame_width > good.width) | (good.frame_height > good.height)]
    return [
        dg.AssetCheckResult(
            check_name="no_frame_lost", passed=lost.empty, metadata={"frames": len(table), "lost": len(lost)}
        ),
        dg.AssetCheckResult(
            check_name="sizes_hold",
            passed=larger.empty,
            metadata={
                "upscaled": len(larger),
                "sizes": len(good[["frame_width", "frame_height"]].drop_duplicates()),
            },
        ),
        _quarantine(made),
    ]


def _quarantine(made: Made) -> dg.AssetCheckResult:
    broken = made.manifest["meta"].get("quarantined", [])
    listed = "\n".join(f"- `{b['image']}`: {b['reason']}" for b in broken[:50])
    return dg.AssetCheckResult(
        check_name="nothing_quarantined",
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"quarantined": len(broken), **({"which": dg.MetadataValue.md(listed)} if broken else {})},
    )
