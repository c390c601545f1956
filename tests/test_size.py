"""The package stays thin: readers should be able to hold it in their heads."""

from gmmt import files


def test_the_package_is_small_and_a_file_holds_one_idea():
    counts = {
        p.relative_to(files.PACKAGE).as_posix(): len(p.read_text(encoding="utf-8").splitlines())
        for p in files.PACKAGE.rglob("*.py")
    }
    assert sum(counts.values()) < 7000, sorted(counts.items(), key=lambda item: -item[1])[:8]
    assert max(counts.values()) <= 450
