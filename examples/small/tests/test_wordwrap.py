from wordwrap import wrap


def test_words_fill_a_line():
    assert wrap("to be or not to be", 8) == ["to be or", "not to", "be"]


def test_a_long_word_stands_alone():
    assert wrap("an incomprehensible text", 6) == ["an", "incomprehensible", "text"]


def test_no_words_make_no_lines():
    assert wrap("   ", 5) == []
