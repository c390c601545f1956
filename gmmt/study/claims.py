"""The ledger: what the paper claims, how it can be checked, and what checking has given so far.

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
from gmmt.study import seeds, stored
from gmmt.study.tables import TABLES

VERDICTS = ("recomputed", "holds", "does not hold", "undecided", "not attempted")
_SOURCES = {"T": "paper Table", "S": "supp Table", "F": "supp Figure"}
_WEAKEST = ("does not hold", "undecided", "holds")


def cell(reference: str) -> str:
    """A published cell as printed: "T2/LasHeR/Siamese/SR", "@OCC" a subset, "#s=1" a setting."""
    source, benchmark, method, metric, subset, setting = _parse(reference)
    table = f"{_SOURCES[source[0]]} {source[1:]}"
    return results.printed(table, benchmark, method, metric, subset or "ALL", setting)


def _parse(reference: str) -> tuple[str, ...]:
    """(source, benchmark, method, metric, subset, setting)."""
    rest, _, setting = reference.partition("#")
    rest, _, subset = rest.partition("@")
    return (*rest.split("/"), subset, setting)


def _words(reference: str) -> str:
    _, benchmark, method, metric, subset, setting = _parse(reference)
    return " ".join(filter(None, (method, setting, metric, subset, f"on {benchmark}")))


def judge_difference(low: float, high: float, claimed: float) -> str:
    """The verdict on a claimed difference > 0 from the 95 % interval of the measured one."""
    if low > 0:
        return "holds"
    return "does not hold" if high < 0 or high < claimed else "undecided"


def equal_as_printed(value: float, text: str) -> bool:
    """Whether `value`, rounded to as many decimals as `text` shows, is the number in `text`."""
    decimals = len(text.partition(".")[2])
    # Compared as numbers: -0.04 is rounded to "-0.0", which is 0.0.
    return float(f"{value:.{decimals}f}") == float(text)


def _recomputed(claim: Mapping) -> tuple[str, str]:
    scores = results.stored_scores(claim["archive"])
    if "subset" in claim:
        _, benchmark = results.RAW[claim["archive"]]
        scores = scores.subset(ground_truth(benchmark).attributes[claim["subset"]])
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
        ours, theirs = f"{_words(left)} ({a})", f"{_words(right)} ({b})"
        if relation == ">" and a <= b:
            failures.append(f"{ours} is not above {theirs}")
        elif relation != ">" and not equal_as_printed(a - b, text[0]):
            failures.append(f"{ours} minus {theirs} is {a - b:.1f}, not {text[0]}")
    if failures:
        shown = "; ".join(failures[:2]) + ("; ..." if len(failures) > 2 else "")
        return "does not hold", f"{len(failures)} of {n} comparisons fail: {shown}"
    if n == 1:
        return "holds", "the printed numbers agree"
    return "holds", f"all {n} comparisons of printed numbers agree"


def _paired(claim: Mapping) -> tuple[str, str]:
    """Compares two raw result archives; of several metrics the weakest verdict counts."""
    ours, theirs = results.stored_scores(claim["archive"]), results.stored_scores(claim["versus"])
    verdicts, parts = [], []
    for metric, claimed in claim["claimed"].items():
        d = results.difference(ours, theirs, metric)
        verdicts.append(judge_difference(d.low, d.high, claimed))
        interval = f"{d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]"
        parts.append(f"{metric} {interval} (printed {claimed:+.1f}), n = {d.n}")
    return min(verdicts, key=_WEAKEST.index), "; ".join(parts)


def _miniature(claim: Mapping) -> tuple[str, str]:
    """Compares rows over stored seeds, a - b, or gains, (a - b) - (c - d); the weakest counts."""
    import pandas as pd

    try:
        table = pd.concat([stored.read_table(number) for number in TABLES])
    except FileNotFoundError:
        return "not attempted", "several trainings of the miniature (make table)"
    parts, verdicts = [], []
    for names in claim["pairs"]:
        # Subtracted seed by seed and video by video: one table may have more seeds than the other.
        scores = [seeds.matrix(table, name, "SR") for name in names]
        if len(names) == 2:
            d, words = seeds.interval(scores[0] - scores[1]), "{} - {}"
        else:
            gain, other = scores[0] - scores[1], scores[2] - scores[3]
            d, words = seeds.interval(gain - other), "({} - {}) - ({} - {})"
        verdicts.append(judge_difference(d.low, d.high, 0))
        parts.append(f"{words.format(*names)}: SR {d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}]")
    weakest = min(verdicts, key=_WEAKEST.index)
    return weakest, f"{'; '.join(parts)}, n = {d.seeds} trainings x {d.n} videos"


def claims() -> list[dict]:
    """The claims of claims.json: id, source, claim, check, rule and the rule's arguments."""
    return json.loads(resource("claims.json").read_text(encoding="utf-8"))


def ledger():
    """The ledger, computed at this moment: id, source, claim, check, verdict, evidence."""
    import pandas as pd

    rules = {"recomputed": _recomputed, "printed": _printed}
    rules.update(paired=_paired, miniature=_miniature)
    rows = []
    for claim in claims():
        row = {field: claim[field] for field in ("id", "source", "claim", "check")}
        if "needs" in claim:
            row["verdict"], row["evidence"] = "not attempted", claim["needs"]
        else:
            row["verdict"], row["evidence"] = rules[claim["rule"]](claim)
        rows.append(row)
    return pd.DataFrame(rows)


def tally(table) -> Mapping[str, int]:
    """How many claims have each verdict, in the order of VERDICTS."""
    return table["verdict"].value_counts().reindex(list(VERDICTS), fill_value=0).to_dict()
