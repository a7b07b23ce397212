"""Personal data by name that no tag says is so.

The tag `pii` decides: of a field, `true` or `false`; of a view, data source or entity, `true` for
all of its fields. A view's `false` does not speak for a field whose name says otherwise. Numbers in
a unit, such as a count of emails, and booleans are about such data, and are none.
"""

from collections.abc import Iterator, Sequence

from hotfeast.server.lint.conventions import UNITS
from hotfeast.server.lint.findings import Fault, Kind
from hotfeast.server.lint.subject import NUMERIC, Subject, words_of
from hotfeast.server.monitoring.report.catalogue import Feature, Marks

_PERSONAL = """
email mail phone telephone fax address street postcode postal zip zipcode birth birthday
birthdate birthplace dob ip ipaddress ssn passport iban bic surname firstname lastname fullname
forename nationality ethnicity religion gender latitude longitude imei msisdn
"""
_NAMED_BY = """
first last full middle maiden family given user customer person contact holder client patient
employee member
"""
PERSONAL = frozenset(_PERSONAL.split())
"""Words of personal data."""

# Before `name` they make it that of a person.
_NAMED = frozenset(_NAMED_BY.split())
# Words of units that a number which stands for somebody does not have.
_MEASURES = UNITS - {"id", "index", "number", "num", "deg", "degrees", "year", "month", "day"}
_TAG = "pii"


def untagged(subject: Subject) -> Iterator[Fault]:
    """Fields with a name of personal data, and no tag that says whether they are."""
    words = PERSONAL | subject.settings.personal
    catalogue = subject.catalogue
    for entity in catalogue.entities.values():
        word = _personal(entity.join_key, words)
        if word and _TAG not in entity.tags:
            yield _fault(Kind.entity, entity.name, "", word, f"has the join key {entity.join_key}")
    for view in catalogue.views.values():
        yield from _fields(Kind.view, view.name, view.marks, view.features, words)
    told: set[str] = set()
    for view in catalogue.views.values():
        for name in view.sources:
            source = catalogue.sources[name]
            if source.kind == "request" and name not in told:
                told.add(name)
                fields = [f for f in view.request_fields if f.name in source.fields]
                yield from _fields(Kind.source, name, source.marks, fields, words)


def _fields(
    kind: Kind, owner: str, marks: Marks, fields: Sequence[Feature], words: frozenset[str]
) -> Iterator[Fault]:
    for field in fields:
        word = _personal(field.name, words)
        if word and not marks.pii and _TAG not in field.tags and not _is_measure(field):
            yield _fault(kind, owner, field.name, word, "has no tag 'pii'")


def _fault(kind: Kind, name: str, field: str, word: str, what: str) -> Fault:
    return Fault(
        kind,
        name,
        field,
        f"{what}, and by the word {word!r} it is personal data",
        "set its tag 'pii' to 'true', or to 'false' if it is not",
    )


def _is_measure(field: Feature) -> bool:
    return field.type == "BOOL" or (
        field.type in NUMERIC and bool(_MEASURES & set(words_of(field.name)))
    )


def _personal(name: str, words: frozenset[str]) -> str:
    """The word by which a field is personal data; empty where it is not."""
    parts = words_of(name)
    for i, part in enumerate(parts):
        if part in words:
            return part
        if part == "name" and (len(parts) == 1 or parts[i - 1] in _NAMED):
            return part
    return ""
