import torch

from vigmpi.graphs.pixel_lattice import PixelLattice


def test_the_studys_graph_has_7812_edges_between_neighbouring_pixels() -> None:
    source, target = PixelLattice(32, 32).edge_index(1)
    assert len(source) == 7812
    offsets = torch.stack([source // 32 - target // 32, source % 32 - target % 32]).abs()
    assert torch.equal(offsets.max(dim=0).values, torch.ones(7812, dtype=torch.int64))
    assert len(torch.unique(source * 1024 + target)) == 7812
    degrees = torch.bincount(target, minlength=1024).view(32, 32)
    assert [int(degrees[at]) for at in [(0, 0), (0, 7), (7, 7)]] == [3, 5, 8]


def test_images_of_a_micro_batch_share_no_edge() -> None:
    lattice = PixelLattice(3, 2)
    source, target = lattice.edge_index(4)
    assert torch.equal(source // 6, target // 6)
    assert torch.equal(torch.bincount(target // 6), torch.full((4,), 22))
