import pytest
import torch
from hypothesis import settings

# Shared machines are slow at times: a property is not broken because it took long.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run side by side; more threads for each would only be in each other's way."""
    torch.set_num_threads(1)
