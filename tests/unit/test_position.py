from vigmpi.phase import Phase
from vigmpi.position import Position


def test_positions_pass_through_both_phases_of_an_epoch() -> None:
    position = Position().after(8).after(3)
    assert position == Position(2, 0, Phase.TRAIN, 2, 11)
    position = position.next_phase()
    assert position == Position(2, 0, Phase.TEST, 0, 0)
    assert position.after(5).next_phase() == Position(3, 1, Phase.TRAIN, 0, 0)
