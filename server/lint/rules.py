"""All rules, by id."""

from hotfeast.server.lint import (
    conventions,
    lifecycle,
    names,
    personal,
    transforms,
    ttls,
    types,
)
from hotfeast.server.lint.findings import Needs, Rule, Severity

_ALL = (
    Rule(
        "name-clash",
        Severity.error,
        "Two views give a feature service features of the same name.",
        names.clashes,
    ),
    Rule(
        "name-meaning",
        Severity.error,
        "Two views give a feature service features of the same name and of different type, unit or "
        "window.",
        names.meanings,
    ),
    Rule(
        "name-case",
        Severity.warning,
        "Features of a feature service have names that differ by case only.",
        names.cases,
    ),
    Rule(
        "name-hides",
        Severity.warning,
        "A name hides another: a computed feature its input, a feature what a request sends, an "
        "alias a view.",
        names.hides,
    ),
    Rule(
        "unit-missing",
        Severity.warning,
        "A number says no unit, by a word of its name, the tag unit or its description.",
        conventions.units,
    ),
    Rule(
        "window-missing",
        Severity.warning,
        "An aggregated number says no window, by a word of its name or the tag window.",
        conventions.windows,
    ),
    Rule(
        "owner-missing",
        Severity.warning,
        "A view, feature service or entity has no owner.",
        conventions.owners,
    ),
    Rule(
        "description-missing",
        Severity.warning,
        "A view, feature service, entity or stored feature has no description.",
        conventions.descriptions,
    ),
    Rule("ttl-missing", Severity.warning, "A view's rows never expire.", ttls.missing),
    Rule(
        "ttl-short",
        Severity.error,
        "A TTL is not longer than the cadence of the source: rows are too old between two runs.",
        ttls.short,
    ),
    Rule(
        "ttl-long",
        Severity.warning,
        "A TTL is so many times the cadence of the source that it hides that the source is late.",
        ttls.long,
    ),
    Rule(
        "cadence-unknown",
        Severity.warning,
        "A tag cadence says no cadence.",
        ttls.cadences,
    ),
    Rule(
        "type-narrowed",
        Severity.error,
        "A field is declared narrower than its column: rows are rejected or values rounded.",
        types.narrowed,
        Needs.data,
    ),
    Rule(
        "type-widened",
        Severity.info,
        "A field is declared wider than its column.",
        types.widened,
        Needs.data,
    ),
    Rule(
        "type-differs",
        Severity.error,
        "A field is declared to be of another kind than its column.",
        types.different,
        Needs.data,
    ),
    Rule(
        "column-missing",
        Severity.error,
        "A field or join key has no column in the source.",
        types.absent,
        Needs.data,
    ),
    Rule(
        "kernel-missing",
        Severity.info,
        "An on-demand view cannot be compiled, and runs in Python for each request.",
        transforms.without_kernel,
    ),
    Rule(
        "pii-untagged",
        Severity.error,
        "The name of a field is one of personal data, and no tag pii says whether it is.",
        personal.untagged,
    ),
    Rule(
        "feature-unread",
        Severity.info,
        "A feature was in no answer that the monitoring has looked at.",
        lifecycle.unread,
        Needs.traffic,
    ),
    Rule(
        "deprecated-served",
        Severity.warning,
        "A feature service takes a deprecated feature.",
        lifecycle.deprecated,
    ),
    Rule(
        "sunset-passed",
        Severity.error,
        "Something is still there on or after the day of its tag sunset.",
        lifecycle.after_sunset,
    ),
    Rule("sunset-invalid", Severity.error, "A tag sunset is no day.", lifecycle.bad_sunset),
)

RULES = {rule.id: rule for rule in _ALL}
"""By id, in the order in which they are told."""
