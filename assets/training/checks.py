"""The codec doctor as asset checks: a codec that fails one is not compared."""

import json

import dagster as dg

from assets.chain import Made

DOCTOR = {
    "gradients": "Every encoder parameter gets a gradient.",
    "reach": "Every quantiser level is reachable.",
    "rate": "Real bpp is within 2 % + 64 bytes of the estimate.",
    "reconstruction": "Decoding reproduces the encoder's reconstruction exactly.",
    "latents": "Shuffled latents destroy the picture.",
    "adversary": "Each discriminator scale reaches the generator.",
    "variety": "No picture is always cut the same way.",
    "gap": "The gap between train and held-out pictures is on record.",
}


def specs(asset: str) -> list[dg.AssetCheckSpec]:
    """One blocking check for each of the doctor's questions."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=True, description=text) for name, text in DOCTOR.items()
    ]


def check_codec(made: Made) -> list[dg.AssetCheckResult]:
    """The doctor's findings of a training run; shipped weights have been examined when they were made."""
    path = made.folder / "doctor.json"
    found = {f["name"]: f for f in json.loads(path.read_text())} if path.exists() else {}
    results = []
    for name in DOCTOR:
        finding = found.get(name)
        results.append(
            dg.AssetCheckResult(
                check_name=name,
                passed=bool(finding["passed"]) if finding else True,
                metadata={
                    "detail": finding["detail"] if finding else "not asked of this codec",
                    **_numbers(finding),
                },
            )
        )
    return results


def _numbers(finding: dict[str, dict[str, float]] | None) -> dict[str, float]:
    return {k: float(v) for k, v in (finding or {}).get("numbers", {}).items()}
