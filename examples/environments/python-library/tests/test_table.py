from aligned import Table, width


def test_columns_of_ascii_line_up():
    assert Table((("a", "1"), ("bcd", "2"))).lines() == ["a    1", "bcd  2"]


def test_a_wide_character_takes_two_cells():
    assert width("日本") == 4


def test_a_combining_character_takes_none():
    assert width("e\u0301") == 1


def test_columns_of_wide_characters_line_up():
    assert Table((("日本", "1"), ("bcd", "2"))).lines() == ["日本  1", "bcd   2"]
