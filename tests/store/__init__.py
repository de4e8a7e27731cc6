import pytest

# The asserts of the shared tests should explain themselves as those of a test file do.
pytest.register_assert_rewrite("tests.store.contract", "tests.store.samples")
