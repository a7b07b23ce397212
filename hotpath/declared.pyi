from hotfeast.hotpath.answer import Answer, AnswerColumn

def declared_column(answer: Answer, index: int, member: int, beside: bool) -> AnswerColumn | None:
    """Decodes a column of numbers, texts or bytes that are in the usual form; None otherwise, where
    `Answer.column` is to be asked. Statuses and event times are empty unless `beside` is set.

    Raises IndexError where there is no such column.
    """

def usual_column(answer: Answer, index: int) -> AnswerColumn | None:
    """The same with statuses and event times, of a column of whatever its first value is."""
