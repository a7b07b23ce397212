"""Methods that know who calls: where there is a policy, nobody else gets to them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from hotfeast.server.errors import RequestFailure
from hotfeast.server.security.access import Access
from hotfeast.server.security.credentials import credentials_of
from hotfeast.server.security.grants import Grants
from hotfeast.server.security.policy import Action

Method = Callable[[Any, Any], Any]


class Guard:
    """Lets calls of methods pass, or not.

    Attributes:
        access: Who may do what; None where everybody may do everything.
    """

    def __init__(self, access: Access | None) -> None:
        """
        Args:
            access: Who may do what; None where everybody may do everything.
        """
        self.access = access

    def grants(self, context: Any) -> Grants | None:
        """What the caller may do; None for everything.

        Raises:
            RequestFailure: It is not known who calls.
        """
        return None if self.access is None else self.access.grants(credentials_of(context))

    def who(self, context: Any) -> str | None:
        """Who calls, for a record; None where nobody has looked."""
        grants = self.grants(context)
        return None if grants is None else grants.principal.text

    def only(self, action: Action, method: Method) -> Method:
        """A method for those who may do something."""
        access = self.access
        if access is None:
            return method

        def answer(request: Any, context: Any) -> Any:
            try:
                access.check(credentials_of(context), action)
            except RequestFailure as failure:
                context.abort(failure.code, failure.message)
            return method(request, context)

        return answer

    def only_unary(self, action: Action, handlers: Mapping[str, Any]) -> dict[str, Any]:
        """The same of unary handlers, by name."""
        return {
            name: grpc.unary_unary_rpc_method_handler(
                self.only(action, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
            for name, handler in handlers.items()
        }

    def seen(self, method: Callable[[Any, Grants | None], Any]) -> Method:
        """A method that shows a caller what it may see."""

        def answer(request: Any, context: Any) -> Any:
            try:
                grants = self.grants(context)
            except RequestFailure as failure:
                context.abort(failure.code, failure.message)
                raise AssertionError("abort() returned") from None
            return method(request, grants)

        return answer


class Reflection(reflection.ReflectionServicer):  # type: ignore[misc]
    """Tells which methods there are, to those who may see definitions."""

    def __init__(self, guard: Guard, services: Iterable[str], needs: dict[str, Action]) -> None:
        """
        Args:
            guard: Knows who calls.
            services: Full names of the services.
            needs: What somebody must be able to do to be told of a service, for some of them.
        """
        self._guard = guard
        self._all = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        self._needs = needs
        super().__init__(self._all)

    def ServerReflectionInfo(
        self, request_iterator: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """Answers the requests of a stream."""
        access = self._guard.access
        if access is None:
            yield from super().ServerReflectionInfo(request_iterator, context)
            return
        try:
            grants = access.check(credentials_of(context), Action.describe)
        except RequestFailure as failure:
            context.abort(failure.code, failure.message)
            raise AssertionError("abort() returned") from None
        visible = [
            name for name in self._all if name not in self._needs or grants.may(self._needs[name])
        ]
        shown = reflection.ReflectionServicer(visible)
        yield from shown.ServerReflectionInfo(request_iterator, context)


def add_reflection(server: grpc.Server, servicer: Reflection) -> None:
    """Has a server tell which methods there are."""
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
