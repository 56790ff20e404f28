import inspect

import pytest

from omnilytics.peers import errors
from omnilytics.peers.errors import OmniLyticsError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, OmniLyticsError) and value.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_says_what_to_do_next(error: type[OmniLyticsError]) -> None:
    raised = error("3 of 5")
    assert str(raised) == raised.message == "3 of 5"
    assert raised.help
    assert error("text", "do this").help == "do this"
    assert error.__doc__
    assert 1 <= error.exit_code <= 9


def test_codes_are_unique_and_the_module_shows_every_class() -> None:
    assert len({error.code for error in CLASSES}) == len(CLASSES)
    assert errors.__doc__ is not None
    for error in CLASSES:
        assert error.__name__ in errors.__doc__


def test_the_tree_shows_the_true_exit_codes() -> None:
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        if " exit " in line and line.split(" exit ")[1][:1].isdigit() and "Error" in line:
            name = line.split(" exit ")[0].strip(" │├└─")
            assert getattr(errors, name).exit_code == int(line.split(" exit ")[1].split()[0])
