"""Objects by name."""

from goldiprox.names import import_named, name_of


def maker(value):
    return lambda: value


class Thing:
    def __init__(self, size):
        self.size = size


def test_objects_have_names_that_settings_may_use():
    one, other = (lambda: 1), (lambda: 2)
    first, second = name_of(one), name_of(other)
    assert first != second
    assert name_of(one) == first
    assert import_named(first, "model") is one
    assert import_named(second, "model") is other


def test_what_is_made_again_has_the_same_name():
    assert name_of(Thing(1)) == name_of(Thing(1))
    assert name_of(Thing(1)) != name_of(Thing(2))
    assert name_of(maker(1)) == name_of(maker(1))
    assert name_of(maker(1)) != name_of(maker(2))
    assert name_of(Thing) != name_of(Thing(1))
