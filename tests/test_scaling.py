"""docs/scaling.md says what was measured, and counts what it says was counted."""

import numpy as np
import pytest
import results
import scaling


@pytest.mark.parametrize("name", scaling.TABLES)
def test_its_tables_are_those_of_the_measured_file_or_say_that_there_is_none(name):
    expected = scaling.TABLES[name]() if scaling.TABLE.is_file() else scaling.NOT_MEASURED
    assert scaling.PAGE.read_text().split(f"<!-- {name} -->\n")[1].split(results.END)[0] == expected


def test_reading_gives_the_rates_and_the_memory_of_both_turns(tmp_path):
    cold, cached = scaling.reading(0.1, tmp_path, 0.5)
    assert "from the disk" in cold["measure"] and "from the cache" in cached["measure"]
    for row in (cold, cached):
        assert row["images a second"] > 100 and 0.01 < row["memory, GB"] < 20
    assert np.load(tmp_path / "images.npy", mmap_mode="r").shape == (8138, 64, 64, 3)
