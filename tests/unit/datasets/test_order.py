import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.datasets.order import (
    fixed_permutation,
    micro_batches,
    mini_batches,
    num_mini_batches,
    shuffled,
)


def test_each_epoch_visits_every_sample_once_in_its_own_order() -> None:
    orders = [shuffled(100, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for order in orders:
        assert sorted(order) == list(range(100))
    assert len({tuple(order) for order in orders}) == 3
    assert (shuffled(100, 0, 1) == orders[1]).all()


def test_a_test_visits_every_sample_and_its_first_mini_batches_contain_all_classes() -> None:
    order = fixed_permutation(10_000)
    assert sorted(order) == list(range(10_000))
    assert (fixed_permutation(10_000) == order).all()
    counts = np.bincount(order[:1000] // 1000, minlength=10)  # images are stored class by class
    assert (abs(counts - 100) < 50).all()


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 10))
def test_mini_batches_follow_the_order_and_only_the_last_may_be_smaller(
    num_images: int, batch_size: int, limit: int
) -> None:
    batches = list(mini_batches(np.arange(num_images), batch_size, limit))
    assert len(batches) == num_mini_batches(num_images, batch_size, limit)
    seen = np.concatenate(batches)
    assert (seen == np.arange(len(seen))).all()
    assert len(seen) == (min(num_images, batch_size * limit) if limit else num_images)
    assert all(len(batch) == batch_size for batch in batches[:-1])


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 7))
def test_micro_batches_are_disjoint_and_of_even_size(size: int, replicas: int, chunks: int) -> None:
    mini_batch = np.random.default_rng(0).permutation(1000)[:size]
    shares = micro_batches(mini_batch, replicas, chunks)
    assert [len(share) for share in shares] == [chunks] * replicas
    flat = [micro_batch for share in shares for micro_batch in share]
    assert (np.concatenate(flat) == mini_batch).all()
    sizes = [len(micro_batch) for micro_batch in flat]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_replicas_together_process_the_micro_batches_of_a_single_pipeline() -> None:
    mini_batch = np.arange(23)
    shares = micro_batches(mini_batch, replicas=3, chunks=4)
    [expected] = micro_batches(mini_batch, replicas=1, chunks=12)
    for a, b in zip([m for share in shares for m in share], expected, strict=True):
        assert (a == b).all()
