import pytest

from tests.vig_fixtures import SMALL_MODELS
from vigmpi.models import MODELS


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, entry in SMALL_MODELS.items():
        monkeypatch.setitem(MODELS, name, entry)
