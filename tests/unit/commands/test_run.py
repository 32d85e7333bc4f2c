from vigmpi.commands.run import default_epochs


def test_small_data_sets_are_passed_over_more_often() -> None:
    images = 1, 1500, 1501, 3500, 5000, 50_000, 10**6
    assert [default_epochs(number) for number in images] == [10, 10, 10, 5, 3, 3, 3]
