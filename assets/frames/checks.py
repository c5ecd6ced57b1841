"""What must hold of frames. Each check reads what the stage made and says its numbers."""

import time

from assets.frames.sources import last_answer
from assets.graph import Held, Made, check
from assets.home import Home

FRESH_DAYS = 30
_FRAMES = "frames.parquet"


@check(blocking=True)
def official_counts(made: Made) -> Held:
    """2975, 500 and 1525 frames under their official names; frames may be absent in a subset."""
    counts = made.manifest["meta"]["counts"]
    listed = "\n".join(f"- {name}: `{line}`" for name in ("missing", "extra") for line in counts[name])
    said = {"detail": str(counts["message"]), "frames": made.facts["frames"]}
    return bool(counts["ok"]), said | ({"which": listed + "\n"} if listed else {})


@check()
def whole_cities(made: Made) -> Held:
    """No city is there in part: in a declared subset that is allowed, but an interrupted copy looks the same."""
    partial = made.manifest["meta"]["counts"]["partial"]
    listed = "".join(f"- missing `{line}`\n" for line in partial)
    return not partial, {"incomplete": len(partial), **({"which": listed} if partial else {})}


@check()
def fresh(made: Made) -> Held | None:
    """The site was asked within 30 days, and it offers what is here. Not asked of your own archive."""
    if not made.facts["downloaded"]:
        return None  # the site is not asked about somebody's own archive or tree
    answer = last_answer(Home.from_environment())
    if answer is None:
        return False, {"detail": "the site was never asked whether it changed"}
    days = (time.time() - answer[0]) / 86400
    if answer[1] != made.facts["md5"]:
        return False, {"detail": f"the site offers another archive (md5 {answer[1]})"}
    return days < FRESH_DAYS, {"detail": f"the site was asked {days:.1f} days ago: unchanged"}


@check(blocking=True)
def splits_present(made: Made) -> Held:
    """At least one split has a usable picture; how many each has stands beside it."""
    table = made.table(_FRAMES)
    counts = {s: int(((table.split == s) & (table.status == "ok")).sum()) for s in ("train", "val", "test")}
    return any(counts.values()), dict(counts)


@check(blocking=True)
def no_frame_lost(made: Made) -> Held:
    """Every usable source frame has an array or a reason."""
    table = made.table(_FRAMES)
    lost = table[(table.status == "ok") & (table.frame_height == 0)]
    return lost.empty, {"frames": len(table), "lost": len(lost)}


@check(blocking=True)
def sizes_hold(made: Made) -> Held:
    """No array is larger than its source; fixed-size datasets have one size."""
    good = made.table(_FRAMES).query("status == 'ok'")
    larger = good[(good.frame_width > good.width) | (good.frame_height > good.height)]
    sizes = len(good[["frame_width", "frame_height"]].drop_duplicates())
    return larger.empty, {"upscaled": len(larger), "sizes": sizes}


@check()
def nothing_quarantined(made: Made) -> Held:
    """Every file is a picture that Fovea can read."""
    broken = made.manifest["meta"].get("quarantined", [])
    listed = "".join(f"- `{b['image']}`: {b['reason']}\n" for b in broken[:50])
    return not broken, {"quarantined": len(broken), **({"which": listed} if broken else {})}


ARCHIVE = (official_counts, whole_cities, fresh)
SOURCE = (splits_present, nothing_quarantined)
RESIZED = (no_frame_lost, sizes_hold, nothing_quarantined._replace(about="Every usable source frame could be decoded."))
