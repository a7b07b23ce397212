"""The destinations of pushes that a caller may write to."""

from typing import Any

from hotfeast.server.errors import RequestFailure
from hotfeast.server.plan import PlanBook
from hotfeast.server.push_plan import Destination, Destinations
from hotfeast.server.push_rows import OFFLINE, ONLINE
from hotfeast.server.security.access import Access
from hotfeast.server.security.credentials import credentials_of
from hotfeast.server.security.grants import push_actions


class PushAccess:
    """Finds them, from any number of threads."""

    def __init__(self, destinations: Destinations, access: Access | None = None) -> None:
        """
        Args:
            destinations: All of them.
            access: Who may write what; everybody everything if None.
        """
        self._destinations = destinations
        self._access = access

    def find(
        self, book: PlanBook, by_push_source: bool, name: str, target: int, context: Any
    ) -> Destination:
        """The destination of a push.

        Args:
            book: The plans of the moment.
            by_push_source: Whether the name is a push source's; else a view's.
            name: The name.
            target: Where rows are to go.
            context: The call's.

        Raises:
            RequestFailure: There is no such push source or view, it cannot be written, or not by
                the caller.
        """
        definitions, access = book.definitions, self._access
        online = target != OFFLINE
        if access is None:
            return self._destinations.find(definitions, by_push_source, name, online)
        call = credentials_of(context)
        grants = access.grants(call)
        actions = push_actions(online, target != ONLINE)
        try:
            destination = self._destinations.find(definitions, by_push_source, name, online)
        except RequestFailure as failure:
            raise access.instead_of_push(
                grants, call, failure, definitions, by_push_source, name, actions
            ) from None
        access.check_push(grants, call, book, destination, by_push_source, name, actions)
        return destination
