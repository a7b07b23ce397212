"""What can go wrong on the hot path, in the terms of the caller who can mend it."""


class InvalidRequest(ValueError):
    """The request's bytes or contents are wrong; the message names the field and the fix."""


class CorruptRow(Exception):
    """A stored value or row time is not what Feast writes; the message names view and feature."""


class AnswerTooLarge(Exception):
    """The answer would be larger than is allowed; the message says by how much."""


class RowsUnread(Exception):
    """Rows are on a node of a cluster that did not answer; the message names them and the node."""


class ReplyError(Exception):
    """Redis answered a command with an error; the message is the server's own."""


class ProtocolError(ConnectionError):
    """The reply is not RESP, or not the reply to what was asked; the connection is unusable."""


class MalformedAnswer(ValueError):
    """Bytes are no answer that its columns can be read from; the message names the column."""
