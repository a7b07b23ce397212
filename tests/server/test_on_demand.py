"""On-demand feature views give what Feast's SDK gives."""

import pytest
from served import Served

from hotfeast.clients import HotfeastError


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


def test_other_features_are_served_beside_a_failing_view(strict: Served) -> None:
    with pytest.raises(HotfeastError, match="planned by the test"):
        strict.client.get_online_features("failing_service", {"user_id": [1]})
    assert strict.client.get_online_features("part", {"user_id": [1]}).to_dict()["spend"] == [1.5]
