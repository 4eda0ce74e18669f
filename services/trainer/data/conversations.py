"""Prepared records to ids and labels: what LLaVA trains on, spelled in this model's template.

The assistant's words, its drawings ([SOI] to [EOI]) and the end of each of its turns are labels; the system sentence,
the user's side, pictures and task tokens are not. Spans are known before anything is tokenized, so a template or a
tokenizer that splits differently cannot mask a sample in silence.
"""

from services.trainer.data.records import Record
from services.trainer.data.tokens import IGNORE, Row, RowMaker
from triptych.errors import InvalidArgument
from triptych.prompts import PromptTemplate


def conversation_row(record: Record, template: PromptTemplate, rows: RowMaker, max_tokens: int) -> Row:
    """Ids and labels of a record. Raises InvalidArgument naming it when it is too long or has nothing to learn from."""
    row = rows.row(record.segments(template))
    if len(row.ids) > max_tokens:
        raise InvalidArgument(f"record {record.id}: {len(row.ids)} tokens, {max_tokens} allowed")
    if trained_share(row) == 0:
        raise InvalidArgument(f"record {record.id}: no token is trained")
    return row


def trained_share(row: Row) -> float:
    """Tokens with a label, as a share of all; worth a look in every log: it falls when masks go wrong."""
    return sum(label != IGNORE for label in row.labels) / len(row.labels)
