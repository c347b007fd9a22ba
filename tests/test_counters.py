"""Energy counters: from the first reading on, through sampled power, and through a sample that fails."""

import time

import pytest

from stkd_utils.counters import RaplEnergy, SampledEnergy, Sampler
from stkd_utils.hardware import Source


def test_rapl_energy_is_counted_from_the_first_reading_on(tmp_path):
    (tmp_path / "max_energy_range_uj").write_text("262143328850")
    file = tmp_path / "energy_uj"
    file.write_text("9000000")
    energy = RaplEnergy([tmp_path])
    assert energy() == 0
    file.write_text("9500000")
    assert (energy(), energy()) == (0.5, 0.5)


def test_sampled_power_is_integrated_by_trapezoids():
    clock, watts = iter([0.0, 2.0, 3.0]), iter([100.0, 200.0, 0.0])
    energy = SampledEnergy(lambda: next(watts), lambda: next(clock))
    assert energy() == 300.0
    assert energy() == 400.0


def test_a_sample_that_fails_is_bridged_by_the_next():
    clock, answers = iter([0.0, 1.0, 2.0]), iter([100.0, OSError("busy"), 100.0])

    def watts():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    energy = SampledEnergy(watts, lambda: next(clock))
    with pytest.raises(OSError):
        energy()
    assert energy() == 200.0


def test_the_sampler_reads_changing_power_during_a_block():
    clock = time.perf_counter
    began = clock()
    energy = SampledEnergy(lambda: 0.0 if clock() - began < 0.05 else 1000.0)
    sampler = Sampler([Source("measured", "", joules=energy, period=0.01)])
    sampler.start()
    time.sleep(0.45)
    sampler.stop()
    spent = clock() - began - 0.05
    assert energy() == pytest.approx(1000 * spent, rel=0.3), "the two ends alone would give half of the whole time"


def test_the_sampler_starts_no_thread_for_counters_that_need_none():
    sampler = Sampler([Source("measured", "", joules=lambda: 1.0), Source("not seen", "")])
    sampler.start()
    assert sampler._thread is None
    sampler.stop()
