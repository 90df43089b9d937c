import re

import parti_data
from parti_data import errors


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    drawn = re.findall(r"^(?:[├└]── )?(\w+Error)\b", errors.__doc__, re.MULTILINE)
    defined = [name for name, kind in vars(errors).items() if isinstance(kind, type)]
    assert drawn == defined


def test_every_error_is_a_parti_error():
    assert {kind.__mro__[1] for name, kind in vars(errors).items() if name.endswith("Error")} == {
        Exception,
        errors.PartiError,
    }


def test_what_is_public_is_what_is_listed():
    public = {name for name, value in vars(parti_data).items() if isinstance(value, type)}
    assert public == set(parti_data.__all__)
