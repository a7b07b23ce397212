"""Owners, tags, cadences and TTLs that every definition of this repository shares.

`hotfeast lint` holds the definitions to what is said here:

- Everything has a description and an owner; fields, the unit of their values as the tag `unit`.
- The name of a field with a window ends in it (`_30d`), and its tag `window` says the same. What is
  computed for a request has no tags, so its name says the unit, too (`discount_missing_usd`).
- The tag `cadence` says how often a source gets rows.

A view's TTL is its cadence plus one day. A snapshot therefore stays servable when the next
one is up to a day late, and an entity that has dropped out of a view (a product nobody
bought in 30 days) becomes stale one day after the first snapshot that leaves it out.
"""

from datetime import timedelta

USERS_OWNER = "user-features@hotfeast.example"
PRODUCTS_OWNER = "product-features@hotfeast.example"
INTERACTIONS_OWNER = "interaction-features@hotfeast.example"
SERVING_OWNER = "ml-serving@hotfeast.example"

DAILY_TTL = timedelta(days=2)
WEEKLY_TTL = timedelta(days=8)
# Static rows carry the start of the data year as their event time, so at the end of that
# year they are 365 days old; the rest is a month of grace before a yearly refresh is late.
STATIC_TTL = timedelta(days=400)

# By how much a snapshot may be late before somebody is called; its rows become stale half a day
# after that.
GRACE = timedelta(hours=12)

TIMESTAMP_FIELD = "event_timestamp"


def view_tags(domain: str, cadence: str, *, pii: bool = False) -> dict[str, str]:
    """Tags of a source, view or service: its `domain`, `cadence` and `pii` ("true"/"false").

    `pii` marks attributes that describe a person or a household directly (age, income).
    Behaviour keyed by the pseudonymous household number is "false".
    """
    return {"domain": domain, "cadence": cadence, "pii": "true" if pii else "false"}


def fresh_within(ttl: timedelta) -> dict[str, str]:
    """The tag that says how old a view's newest row may be before Hotfeast alerts: its cadence and
    `GRACE`, for the TTL of that cadence."""
    hours = (ttl - timedelta(days=1) + GRACE) // timedelta(hours=1)
    return {"hotfeast.freshness": f"{hours}h"}


def field_tags(
    unit: str, window_days: int | None = None, expect: dict[str, str] | None = None
) -> dict[str, str]:
    """Tags of a field: its `unit` and, for a windowed one, its `window` (for example "30d").

    `expect` are rules that Hotfeast holds written rows to, such as `{"min": "0"}`.
    """
    window = {} if window_days is None else {"window": f"{window_days}d"}
    return {"unit": unit} | window | (expect or {})


NOT_NEGATIVE = {"min": "0"}
COUNTED = {"min": "0", "not_null": "true"}
"""Expectations of a number that may be null, and of one that is always there."""
