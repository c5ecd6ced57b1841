"""What must hold of frames. Each check reads what the stage made and says its numbers."""

import time
from typing import TYPE_CHECKING, Any

from assets.graph import Check, Made

if TYPE_CHECKING:
    import pandas as pd

FRESH_DAYS = 30


def _official(made: Made) -> tuple[bool, dict[str, Any]]:
    counts = made.manifest["meta"]["counts"]
    listed = "\n".join(f"- {name}: `{line}`" for name in ("missing", "extra") for line in counts[name])
    said = {"detail": str(counts["message"]), "frames": made.facts["frames"]}
    return bool(counts["ok"]), said | ({"which": listed + "\n"} if listed else {})


def _whole_cities(made: Made) -> tuple[bool, dict[str, Any]]:
    partial = made.manifest["meta"]["counts"]["partial"]
    return not partial, {"incomplete": len(partial)} | (
        {"which": "".join(f"- missing `{line}`\n" for line in partial)} if partial else {}
    )


def _fresh(made: Made) -> tuple[bool, dict[str, Any]] | None:
    from assets.frames.sources import last_answer
    from assets.home import Home

    if not made.facts["downloaded"]:
        return None  # the site is not asked about somebody's own archive or tree
    answer = last_answer(Home.from_environment())
    if answer is None:
        return False, {"detail": "the site was never asked whether it changed"}
    days = (time.time() - answer[0]) / 86400
    if answer[1] != made.facts["md5"]:
        return False, {"detail": f"the site offers another archive (md5 {answer[1]})"}
    return days < FRESH_DAYS, {"detail": f"the site was asked {days:.1f} days ago: unchanged"}


def _table(made: Made) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(made.folder / "frames.parquet")


def _splits(made: Made) -> tuple[bool, dict[str, Any]]:
    table = _table(made)
    counts = {s: int(((table.split == s) & (table.status == "ok")).sum()) for s in ("train", "val", "test")}
    return any(counts.values()), dict(counts)


def _lost(made: Made) -> tuple[bool, dict[str, Any]]:
    table = _table(made)
    lost = table[(table.status == "ok") & (table.frame_height == 0)]
    return lost.empty, {"frames": len(table), "lost": len(lost)}


def _sizes(made: Made) -> tuple[bool, dict[str, Any]]:
    good = _table(made)
    good = good[good.status == "ok"]
    larger = good[(good.frame_width > good.width) | (good.frame_height > good.height)]
    sizes = len(good[["frame_width", "frame_height"]].drop_duplicates())
    return larger.empty, {"upscaled": len(larger), "sizes": sizes}


def _quarantine(made: Made) -> tuple[bool, dict[str, Any]]:
    broken = made.manifest["meta"].get("quarantined", [])
    listed = "".join(f"- `{b['image']}`: {b['reason']}\n" for b in broken[:50])
    return not broken, {"quarantined": len(broken), **({"which": listed} if broken else {})}


ARCHIVE = (
    Check(
        "official_counts",
        "2975, 500 and 1525 frames under their official names; frames may be absent in a subset.",
        _official,
        blocking=True,
    ),
    Check(
        "whole_cities",
        "No city is there in part: in a declared subset that is allowed, but an interrupted copy looks the same.",
        _whole_cities,
    ),
    Check(
        "fresh",
        "The site was asked within 30 days, and it offers what is here. Not asked of your own archive.",
        _fresh,
    ),
)
SOURCE = (
    Check(
        "splits_present", "There are pictures to train on and pictures to measure on.", _splits, blocking=True
    ),
    Check("nothing_quarantined", "Every file is a picture that Fovea can read.", _quarantine),
)
RESIZED = (
    Check("no_frame_lost", "Every usable source frame has an array or a reason.", _lost, blocking=True),
    Check(
        "sizes_hold",
        "No array is larger than its source; fixed-size datasets have one size.",
        _sizes,
        blocking=True,
    ),
    Check("nothing_quarantined", "Every usable source frame could be decoded.", _quarantine),
)
