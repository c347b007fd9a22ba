"""What values the keys of an experiment take: small tests, True for a valid value."""

import math


class ExperimentError(ValueError):
    """A setting, experiment or profile that cannot be used; the message names file, key and what would be valid."""


def positive(value):
    """A finite number above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def fraction(value):
    """A number from 0 to 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def share(value):
    """A number above 0, at most 1, or None for everything."""
    return value is None or (fraction(value) and value > 0)


def count(value):
    """A whole number of 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def number(value):
    """A finite number of 0 or more."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def limit(value):
    """A whole number above 1, or None for no limit."""
    return value is None or (count(value) and value > 1)


def fractions(value):
    """A rising list of numbers from 0 to 1."""
    return isinstance(value, list) and all(map(fraction, value)) and value == sorted(value)


def text(value):
    """A text that is not empty."""
    return isinstance(value, str) and bool(value.strip())


def texts(value):
    """A list of one text or more."""
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def one_or_more(test):
    """A test for a value that passes ``test``, a `one_of`, or a list of such values, not empty."""

    def check(value):
        return all(map(test, value)) and bool(value) if isinstance(value, list) else test(value)

    check.names = test.names
    return check


def or_none(test):
    """A test for None, or a value that passes ``test``, a `one_of`."""

    def check(value):
        return value is None or test(value)

    check.names = test.names
    return check


def switch(value):
    """True or False."""
    return isinstance(value, bool)


def one_of(names, known=None):
    """A test for a value among ``names()``, which shows some, where ``known(value)`` tells all that are valid."""

    def check(value):
        return known(value) if known else value in names()

    check.names = names
    return check
