"""On-demand feature views give what Feast's SDK gives, and say what is wrong with them."""

from collections.abc import Iterator
from typing import Any

import market
import misbehaving
import pytest
from feast import FeatureStore
from grpc import StatusCode
from served import Served, serving

from hotfeast.clients import HotfeastError
from hotfeast.server.local_redis import LocalRedis


@pytest.fixture(scope="module")
def unruly(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway for the views of `misbehaving.py`."""
    folder = tmp_path_factory.mktemp("misbehaving")
    market.write_repository(folder, "misbehaving", redis_server.address)
    store = FeatureStore(repo_path=str(folder))
    misbehaving.make(store)
    store.write_to_online_store("user_stats", market._users())
    with serving(store) as served:
        yield served


def ask(served: Served, features: str | list[str], how: str, **options: Any) -> Any:
    return served.client.get_online_features(
        features,
        {"user_id": [1, 2]},
        request_context={"how": [how] * 2, "amount": [3.0, 4.0]},
        **options,
    )


@pytest.mark.parametrize("full", [False, True])
def test_on_demand_view_with_request_data(strict: Served, full: bool) -> None:
    ids, carts = [1, 3, 1, -4], [3.0, 6.0, 0.75, 1.0]
    answer = strict.client.get_online_features(
        "cart_service",
        {"user_id": ids},
        request_context={"cart_value": carts},
        full_feature_names=full,
    )
    sdk = strict.store.get_online_features(
        strict.store.get_feature_service("cart_service"),
        [{"user_id": u, "cart_value": c} for u, c in zip(ids, carts, strict=True)],
        full_feature_names=full,
    ).to_dict()
    name = "cart_share__cart_share" if full else "cart_share"
    assert set(answer.names) == set(sdk)
    ours = answer.to_dict()
    assert ours[name][0] == sdk[name][0] == 2.0
    # User 3's row is too old to be served, so the strict answer has no spend to divide by.
    assert (sdk[name][1], ours[name][1]) == (2.0, None)
    assert answer.statuses[name][:3] == ["PRESENT", "NULL_VALUE", "PRESENT"]


def test_features_that_only_a_transform_needs_are_not_sent(strict: Served) -> None:
    answer = strict.client.get_online_features(
        ["cart_share:cart_share"], {"user_id": [1]}, request_context={"cart_value": [3.0]}
    )
    assert answer.to_dict() == {"user_id": [1], "cart_share": [2.0]}


def test_an_entity_without_a_row_is_null_even_if_it_is_alone(strict: Served) -> None:
    """The column is null throughout, and is one of numbers all the same."""
    answer = strict.client.get_online_features(
        ["cart_share:cart_share"], {"user_id": [99]}, request_context={"cart_value": [3.0]}
    )
    assert answer.to_dict() == {"user_id": [99], "cart_share": [None]}


def test_request_data_among_the_entities(strict: Served) -> None:
    answer = strict.client.get_online_features(
        ["cart_share:cart_share"], {"cart_value": [3.0, 0.75], "user_id": [1, 1]}
    )
    assert answer.to_dict() == {"user_id": [1, 1], "cart_share": [2.0, 0.5]}
    with pytest.raises(HotfeastError, match="'cart_value' is given twice") as refused:
        strict.client.get_online_features(
            ["cart_share:cart_share"],
            {"user_id": [1], "cart_value": [3.0]},
            request_context={"cart_value": [3.0]},
        )
    assert refused.value.code is StatusCode.INVALID_ARGUMENT
    with pytest.raises(HotfeastError, match="'cart_value' is no join key"):
        strict.client.get_online_features("users", {"user_id": [1], "cart_value": [3.0]})


def test_request_data_is_taken_in_its_declared_type(strict: Served) -> None:
    def cart_share(value: object) -> Any:
        return strict.client.get_online_features(
            ["cart_share:cart_share"], {"user_id": [1]}, request_context={"cart_value": [value]}
        ).to_dict()["cart_share"]

    assert cart_share(3) == [2.0]
    assert cart_share(None) == [None]
    for wrong in ("3", True, b"3", 2**53 + 1):
        with pytest.raises(HotfeastError, match=r"'cart_value' in row 0 .*DOUBLE") as refused:
            cart_share(wrong)
        assert refused.value.code is StatusCode.INVALID_ARGUMENT


def test_an_exception_is_told_with_the_name_of_the_view(strict: Served) -> None:
    with pytest.raises(HotfeastError) as failed:
        strict.client.get_online_features("failing_service", {"user_id": [1]})
    assert failed.value.code is StatusCode.INTERNAL
    assert str(failed.value).endswith(
        "on-demand feature view 'failing' failed: ZeroDivisionError: planned by the test"
    )
    assert strict.client.get_online_features("part", {"user_id": [1]}).to_dict()["spend"] == [1.5]


@pytest.mark.parametrize(
    ("view", "feature", "how", "told"),
    [
        ("frames", "ratio", "raise", "failed: LookupError: planned by the test"),
        ("frames", "whole", "leave a column out", "'whole' is missing .* has 'ratio'"),
        ("frames", "ratio", "too short", "'ratio' has 1 values in its output, for 2 rows"),
        ("frames", "whole", "text for a number", "'whole' is declared as INT64, .*'seven'"),
        ("frames", "ratio", "a list for a number", "'ratio' is declared as DOUBLE, .* ndarray"),
        ("frames", "ratio", "no frame", "returned Series and not a DataFrame"),
        ("lists", "listed", "raise", "failed: LookupError: planned by the test"),
        ("lists", "listed", "leave a column out", "'listed' is missing"),
        ("lists", "listed", "too short", "'listed' has 1 values in its output, for 2 rows"),
        ("lists", "listed", "no dict", "returned list and not a dict"),
        ("values", "pair", "a bare list", "'pair' has 2 values in its output for one row"),
    ],
)
def test_wrong_output(unruly: Served, view: str, feature: str, how: str, told: str) -> None:
    with pytest.raises(HotfeastError, match=f"on-demand feature view '{view}':? .*{told}") as wrong:
        ask(unruly, [f"{view}:{feature}"], how)
    assert wrong.value.code is StatusCode.INTERNAL


@pytest.mark.parametrize("full", [False, True])
def test_partial_answer_without_the_views_that_failed(unruly: Served, full: bool) -> None:
    with pytest.raises(HotfeastError, match="view 'frames' failed: LookupError"):
        ask(unruly, "both", "raise")
    answer = ask(unruly, "both", "raise", allow_partial_response=True, full_feature_names=full)
    assert answer.names == (
        ["user_id", "user_stats__city", "framed__ratio", "framed__whole", "lists__listed"]
        if full
        else ["user_id", "city", "ratio", "whole", "listed"]
    )
    assert [answer.statuses[name] for name in answer.names[1:]] == [
        ["PRESENT", "NULL_VALUE"],
        *[["INVALID", "INVALID"]] * 3,
    ]
    assert [(e.feature_view, list(e.rows), e.code) for e in answer.row_errors] == [
        ("framed", [0, 1], 13),
        ("lists", [0, 1], 13),
    ]
    assert "'frames' failed: LookupError: planned by the test" in answer.row_errors[0].message

    answer = ask(unruly, "both", "no frame", allow_partial_response=True, full_feature_names=full)
    assert [list(answer.to_dict().values())[i] for i in (1, 4)] == [["Ulm", None], [3.0, 4.0]]
    assert [e.feature_view for e in answer.row_errors] == ["framed"]


def test_python_functions_may_return_arrays(unruly: Served) -> None:
    answer = ask(unruly, ["lists:listed", "lists:vector"], "an array").to_dict()
    assert answer["listed"] == [3.0, 4.0]
    assert answer["vector"] == [[3.0, 3.0], [4.0, 4.0]]


def test_a_singleton_function_is_run_for_each_row(unruly: Served) -> None:
    answer = ask(unruly, ["values:one", "values:pair"], "").to_dict()
    assert answer["one"] == [3.0, 4.0]
    assert answer["pair"] == [[3.0, 3.0], [4.0, 4.0]]


def test_a_source_under_another_name(unruly: Served) -> None:
    """Feast's SDK fails with a KeyError here."""
    answer = unruly.client.get_online_features(["of_an_alias:visits_again"], {"user_id": [1, 2]})
    assert answer.to_dict()["visits_again"] == [10, None]


def test_a_feature_called_like_another_views_input(unruly: Served) -> None:
    """The stored feature is asked for, and is the input of a view, under one name."""
    answer = ask(unruly, ["user_stats:spend", "frames:ratio", "lists:listed"], "")
    assert answer.names == ["user_id", "spend", "ratio", "listed"]
    assert answer.to_dict()["ratio"] == [2.0, None]


def test_aggregations_are_refused(unruly: Served) -> None:
    with pytest.raises(HotfeastError, match="'totals' has aggregations") as refused:
        unruly.client.get_online_features(["totals:sum_visits"], {"user_id": [1]})
    assert refused.value.code is StatusCode.FAILED_PRECONDITION
