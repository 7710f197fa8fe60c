"""Rows of a dataset: the files they are read from, which form they have, and whether each has what training needs.

Standard library only (Parquet needs pyarrow, imported when such a file is read) and streaming: `pushtrain check` looks
at the first rows of a file of the commit with it, the trainer at all of them, and at rows that come from elsewhere.

    files.py     a path → records, by its ending: .jsonl, .csv, .tsv, .parquet
    forms.py     a record → which form it has, what is wrong with it
    reading.py   records → rows of one form, columns renamed, each judged; the first bad one named by file:row
"""

from pushtrain.rows.files import DATA_MISSING, PYARROW_MISSING, data_file
from pushtrain.rows.forms import FORMS_HINT, TASK_FORMS, Form, Message, fault, form_of, split_pair, tools_of
from pushtrain.rows.reading import Reading, Row, judged, read_rows

__all__ = [
    "DATA_MISSING",
    "FORMS_HINT",
    "PYARROW_MISSING",
    "TASK_FORMS",
    "Form",
    "Message",
    "Reading",
    "Row",
    "data_file",
    "fault",
    "form_of",
    "judged",
    "read_rows",
    "split_pair",
    "tools_of",
]
