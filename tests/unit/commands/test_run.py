from vigmpi.commands.run import default_epochs


def test_small_data_sets_are_passed_over_more_often() -> None:
    images = 1, 1500, 1501, 3500, 5000, 50_000, 10**6
    assert [default_epochs(number, 1) for number in images] == [90, 10, 10, 5, 3, 3, 3]


def test_small_data_sets_get_enough_steps_for_the_running_statistics() -> None:
    assert default_epochs(1500, 100) == 10  # the digits on two replicas
    assert default_epochs(600, 100) == 15
    assert default_epochs(12, 50) == 90
