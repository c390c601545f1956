"""The ledger: what the paper claims, how each claim can be checked, and what checking has given so
far.

The claims and their checks are gmmt/resources/claims.json; a verdict is never written there. It is
computed, by rules that were fixed before anything was trained here:

- a recomputed number is `recomputed` if it equals the printed one at the printed digits, else it
  `does not hold`;
- a statement about printed tables `holds` if the tables say so, else it `does not hold` (this
  checks the paper against itself, no more);
- a difference between two methods, as 95 % interval [low, high] of the paired difference in the
  claimed direction: it `holds` if low > 0; it `does not hold` if high < 0, or if high is below the
  claimed size; else it is `undecided`;
- a difference between two rows of the miniature, or between two such gains, the same way, its
  interval over trainings and videos together (seeds.py); the sizes that the paper claims are for
  other videos, so only the sign counts (the rule for gains, and claims 47 and 48, came later,
  before the scores that they are judged by were read);
- what nothing here has measured yet is `not attempted`.
"""

import json
from collections.abc import Mapping

from gmmt import results
from gmmt.data.benchmarks import ground_truth
from gmmt.files import resource
from gmmt.study import seeds

VERDICTS = ("recomputed", "holds", "does not hold", "undecided", "not attempted")
_SOURCES = {"T": "paper Table", "S": "supp Table", "F": "supp Figure"}
_WEAKEST = ("does not hold", "undecided", "holds")


def cell(reference: str) -> str:
    """Returns a published cell as printed: "T2/LasHeR/Siamese/SR", with "@OCC" for a subset and
    "#s=1" for a setting; T, S, F: _SOURCES.
    """
    source, benchmark, method, metric, subset, setting = _parse(reference)
    return results.printed(
        f"{_SOURCES[source[0]]} {source[1:]}", benchmark, method, metric, subset or "ALL", setting
    )


def _parse(reference: str) -> tuple[str, ...]:
    """Returns (source, benchmark, method, metric, subset, setting)."""
    rest, _, setting = reference.partition("#")
    rest, _, subset = rest.partition("@")
    return (*rest.split("/"), subset, setting)


def _words(reference: str) -> str:
    _, benchmark, method, metric, subset, setting = _parse(reference)
    return " ".join(filter(None, (method, setting, metric, subset, f"on {benchmark}")))


def judge_difference(low: float, high: float, claimed: float) -> str:
    """Returns the verdict on a claimed difference > 0 from the 95 % interval of the measured
    one.
    """
    if low > 0:
        return "holds"
    return "does not hold" if high < 0 or high < claimed else "undecided"


def equal_as_printed(value: float, text: str) -> bool:
    """Returns whether `value`, rounded to as many decimals as `text` shows, is what `text` says."""
    decimals = len(text.partition(".")[2])
    return f"{value:.{decimals}f}" == text


def _recomputed(claim: Mapping) -> tuple[str, str]:
    scores = results.stored_scores(claim["archive"])
    if "subset" in claim:
        scores = scores.subset(
            ground_truth(results.RAW[claim["archive"]][1]).attributes[claim["subset"]]
        )
    parts, equal = [], True
    for reference in claim["cells"]:
        metric = _parse(reference)[3]
        text, value = cell(reference), 100 * scores.mean(metric)
        equal &= equal_as_printed(value, text)
        parts.append(f"{metric} {value:.3f} (printed {text})")
    return ("recomputed" if equal else "does not hold"), ", ".join(parts) + claim.get("remark", "")


def _printed(claim: Mapping) -> tuple[str, str]:
    """Checks [left, ">", right] and [left, "-", right, the difference as printed]."""
    failures, n = [], len(claim["checks"])
    for left, relation, right, *text in claim["checks"]:
        a, b = float(cell(left)), float(cell(right))
        if relation == ">" and a <= b:
            failures.append(f"{_words(left)} ({a}) is not above {_words(right)} ({b})")
        elif relation != ">" and not equal_as_printed(a - b, text[0]):
            failures.append(
                f"{_words(left)} ({a}) minus {_words(right)} ({b}) is {a - b:.1f}, not {text[0]}"
            )
    if failures:
        shown = "; ".join(failures[:2]) + ("; ..." if len(failures) > 2 else "")
        return "does not hold", f"{len(failures)} of {n} comparisons fail: {shown}"
    return (
        "holds",
        f"all {n} comparisons of printed numbers agree" if n > 1 else "the printed numbers agree",
    )


def _paired(claim: Mapping) -> tuple[str, str]:
    """Compares two raw result archives; of several metrics the weakest verdict counts."""
    ours, theirs = results.stored_scores(claim["archive"]), results.stored_scores(claim["versus"])
    found = [
        (metric, claimed, results.difference(ours, theirs, metric))
        for metric, claimed in claim["claimed"].items()
    ]
    words = [
        f"{m} {d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}] (printed {claimed:+.1f}), n = {d.n}"
        for m, claimed, d in found
    ]
    return min(
        (judge_difference(d.low, d.high, claimed) for _, claimed, d in found), key=_WEAKEST.index
    ), "; ".join(words)


def _miniature(claim: Mapping) -> tuple[str, str]:
    """Compares rows of the miniature over all stored seeds, a - b, or gains, (a - b) - (c - d); of
    several the weakest verdict counts.
    """
    import pandas as pd

    try:
        table = pd.concat(
            [
                seeds.read("cpu", seeds.stored_results_dir() / name)
                for name in ("miniature", "miniature_vit")
            ]
        )
    except FileNotFoundError:
        return "not attempted", "several trainings of the miniature (make table)"
    parts, verdicts = [], []
    for names in claim["pairs"]:
        scores = [seeds.matrix(table, name, "SR") for name in names]
        n = min(map(len, scores))  # one table may have more seeds than the other
        d = seeds.interval(
            sum(sign * s[:n] for sign, s in zip((1, -1, -1, 1), scores, strict=False))
        )
        verdicts.append(judge_difference(d.low, d.high, 0))
        words = "{} - {}" if len(names) == 2 else "({} - {}) - ({} - {})"
        parts.append(f"{words.format(*names)}: SR {d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]")
    return min(
        verdicts, key=_WEAKEST.index
    ), f"{'; '.join(parts)}, n = {d.seeds} trainings x {d.n} videos"


def claims() -> list[dict]:
    """Returns the claims as they stand in claims.json: id, source, claim, check, rule and the
    rule's arguments.
    """
    return json.loads(resource("claims.json").read_text(encoding="utf-8"))


def ledger():
    """Returns the ledger as a DataFrame: id, source, claim, check, verdict, evidence. Verdicts are
    computed at this moment.
    """
    import pandas as pd

    rows, rules = (
        [],
        {
            "recomputed": _recomputed,
            "printed": _printed,
            "paired": _paired,
            "miniature": _miniature,
        },
    )
    for claim in claims():
        verdict, evidence = (
            rules[claim["rule"]](claim)
            if "needs" not in claim
            else ("not attempted", claim["needs"])
        )
        rows.append(
            {
                **{k: claim[k] for k in ("id", "source", "claim", "check")},
                "verdict": verdict,
                "evidence": evidence,
            }
        )
    return pd.DataFrame(rows)


def tally(table) -> Mapping[str, int]:
    """Returns how many claims have each verdict, in the order of VERDICTS."""
    return table["verdict"].value_counts().reindex(list(VERDICTS), fill_value=0).to_dict()
