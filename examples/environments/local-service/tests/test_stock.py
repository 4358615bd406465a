import pytest
import stock


@pytest.fixture
def conn():
    with stock.connect() as found:
        yield found
        found.rollback()


def test_what_was_never_added_is_not_there(conn):
    assert stock.count(conn, "bolts") == 0


def test_what_was_added_is_there(conn):
    stock.add(conn, "bolts", 2)
    assert stock.count(conn, "bolts") == 2


def test_adding_twice_sums_up(conn):
    stock.add(conn, "nuts", 2)
    stock.add(conn, "nuts", 3)
    assert stock.count(conn, "nuts") == 5
