"""What decides whether a benchmark passes: counts, h2load's words, lines through points."""

import pytest

from bench import h2load
from bench.counts import (
    TOLERANCE,
    TOLERANCE_ACROSS_TOOLCHAINS,
    CannotCount,
    Counts,
    compare,
)
from bench.growth import fit

COUNTED = Counts("gcc 12", {"scan": 100.0, "splice": 50.0}, {"scan": "value", "splice": "value"})


def test_counts_are_held_against_those_of_the_same_toolchain() -> None:
    kept = {"gcc 12": {"scan": 98.0, "splice": 48.0}, "clang": {"scan": 1.0, "splice": 1.0}}
    comparisons, toolchain = compare(COUNTED, kept)
    assert toolchain == "gcc 12"
    assert {c.tolerance for c in comparisons} == {TOLERANCE}
    assert [c.passed for c in comparisons] == [True, False]


def test_fewer_instructions_pass() -> None:
    comparisons, _ = compare(COUNTED, {"gcc 12": {"scan": 500.0, "splice": 500.0}})
    assert all(c.passed for c in comparisons)


def test_another_toolchain_has_a_wider_limit_and_is_named() -> None:
    kept = {"old": {"scan": 1.0, "splice": 1.0}, "gcc 11": {"scan": 85.0, "splice": 40.0}}
    comparisons, toolchain = compare(COUNTED, kept)
    assert toolchain == "gcc 11"
    assert {c.tolerance for c in comparisons} == {TOLERANCE_ACROSS_TOOLCHAINS}
    assert [c.passed for c in comparisons] == [True, False]


def test_a_stage_without_a_kept_count_fails() -> None:
    comparisons, _ = compare(COUNTED, {"gcc 12": {"scan": 100.0}})
    assert [c.passed for c in comparisons] == [True, False]


@pytest.mark.parametrize("kept", [{}, {"gcc 12": {"scan": 100.0, "splice": 50.0, "gone": 1.0}}])
def test_a_file_that_says_nothing_or_too_much_is_refused(kept: dict[str, dict[str, float]]) -> None:
    with pytest.raises(CannotCount):
        compare(COUNTED, kept)


OUTPUT = """
finished in 1.20s, 1000.50 req/s, 1.00MB/s
requests: 1200 total, 1200 started, 1200 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 1200 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.00MB (1048576) total, 22.93KB (23478) headers (space savings 96.20%), 0.80MB ({data}) data
"""  # noqa: E501
TARGET = h2load.Target(port=1, path="/a/B", body=b"", answer_size=95)


def test_h2load_is_understood() -> None:
    output = OUTPUT.format(succeeded=1200, failed=0, data=120_000)
    assert h2load._read(output, TARGET) == (1000.5, 1200)


@pytest.mark.parametrize(("succeeded", "failed", "data"), [(1199, 1, 120_000), (1200, 0, 119_999)])
def test_requests_that_fail_or_bring_too_little_are_noticed(
    succeeded: int, failed: int, data: int
) -> None:
    with pytest.raises(RuntimeError):
        h2load._read(OUTPUT.format(succeeded=succeeded, failed=failed, data=data), TARGET)


def test_a_line_is_found_and_what_it_misses_is_told() -> None:
    exact = fit("rows", "ours", {at: 0.5 + 0.003 * at for at in (1, 10, 100, 1000)})
    assert exact.constant == pytest.approx(0.5)
    assert exact.slope == pytest.approx(0.003)
    assert exact.residual == pytest.approx(0, abs=1e-9)
    bent = fit("rows", "ours", {at: 0.5 + 0.003 * at**1.3 for at in (1, 10, 100, 1000)})
    assert bent.residual > 0.15
