import unittest

from duration import seconds_of


class Durations(unittest.TestCase):
    def test_minutes(self):
        self.assertEqual(seconds_of("5m"), 300)

    def test_hours_and_minutes(self):
        self.assertEqual(seconds_of("1h30m"), 5400)
