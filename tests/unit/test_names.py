"""Objects by name."""

from goldiprox.names import import_named, name_of


def test_objects_have_names_that_settings_may_use():
    one, other = (lambda: 1), (lambda: 2)
    first, second = name_of(one), name_of(other)
    assert first != second
    assert name_of(one) == first
    assert import_named(first, "model") is one
    assert import_named(second, "model") is other
