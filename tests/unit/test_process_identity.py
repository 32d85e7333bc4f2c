import os
import platform
import signal
import subprocess
from typing import Any

import pytest

from vigmpi.process_identity import ProcessIdentity, identity_of


@pytest.mark.parametrize("change", [{"boot": "b"}, {"boot": ""}, {"namespace": "pid:[1]"}])
def test_a_process_of_another_host_of_the_same_name_is_not_killed(change: dict[str, Any]) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = identity_of(process.pid)
        other = identity._replace(**change)
        assert str(other) == str(identity) == f"pid {process.pid} on {platform.node()}"
        assert not other.end()
        assert process.poll() is None
        assert ProcessIdentity.decode(identity.encode()).end()
        assert process.wait(5) == -signal.SIGKILL


def test_a_process_that_reused_a_number_is_not_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = identity_of(process.pid)
        earlier = identity._replace(started=identity.started - 1)
        assert earlier.end()  # it has ended
        assert process.poll() is None
        assert identity.end()
        assert process.wait(5) == -signal.SIGKILL
    assert identity.end()
    assert ProcessIdentity.own() == identity_of(os.getpid())
