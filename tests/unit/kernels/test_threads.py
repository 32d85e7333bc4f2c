from contextlib import suppress

import torch

from vigmpi.kernels.threads import one_torch_thread, over_images


def test_the_kernels_keep_their_threads_while_torch_uses_one() -> None:
    calls: list[tuple[int, int]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with suppress(ZeroDivisionError), one_torch_thread():
            with one_torch_thread():
                over_images(lambda first, last: calls.append((first, last)), 100)
            assert torch.get_num_threads() == 1
            over_images(lambda first, last: calls.append((first, last)), 100)
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 2 * 12  # four ranges per thread
