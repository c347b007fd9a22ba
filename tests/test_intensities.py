"""Carbon intensities: values, sources, and how one is asked for."""

import math
import runpy

import pytest

from stkd_utils import carbon, intensities
from stkd_utils.carbon import Intensity

WORLD = carbon.INTENSITIES["world"]


def test_intensities_carry_source_and_year():
    assert (WORLD.g_per_kwh, WORLD.date) == (445, "2024")
    assert carbon.find_intensity("EU-2017").g_per_kwh == pytest.approx(294.206, abs=1e-3)
    assert 600 < carbon.find_intensity(" Bangladesh ").g_per_kwh < 800
    assert len(carbon.INTENSITIES) > 200, "carbontracker's table of countries is read"
    for one in carbon.INTENSITIES.values():
        assert one.g_per_kwh > 0 and one.source and one.date.isdigit()


def test_the_world_average_is_carbontrackers():
    from carbontracker import constants

    assert WORLD.g_per_kwh == constants.WORLD_AVG_CARBON_INTENSITY
    assert WORLD.date == str(constants.WORLD_AVG_CARBON_INTENSITY_YEAR)


def test_the_default_of_every_receipt_is_its_own_whatever_the_table_has(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    rows = ["Entity,Year,Carbon intensity of electricity (gCO2eq/kWh)", "World,2031,1", "EU-2017,2031,2", "Chad,2031,3"]
    (tmp_path / "data" / "carbon-intensities.csv").write_text("\n".join(rows))
    monkeypatch.setattr(intensities.resources, "files", lambda name: tmp_path)
    found = runpy.run_path(intensities.__file__)["INTENSITIES"]
    assert [found[name].g_per_kwh for name in ("world", "eu-2017", "chad")] == [445, 294.2060978, 3]


def test_an_intensity_is_set_by_name_number_or_object():
    own = Intensity(20.0, "our solar panels", "2025")
    for asked, g in (("france", carbon.INTENSITIES["france"].g_per_kwh), (300, 300), (0, 0), (own, 20.0)):
        meter = carbon.Meter(intensity=asked, cpu_watts=50)
        with meter.block("train"):
            pass
        got = meter.cost("train")
        assert got.co2e_g == got.energy_kwh * g
    assert carbon.find_intensity(own) is own
    assert carbon.find_intensity(300).source == "stated by user"


def test_an_unknown_intensity_names_the_known():
    with pytest.raises(carbon.IntensityError, match="Unknown carbon intensity 'frence'.*world, eu-2017, france"):
        carbon.Meter(intensity="frence")
    for wrong in (-1, math.nan, True, None, [3]):
        with pytest.raises(carbon.IntensityError, match="number of 0 or more"):
            carbon.find_intensity(wrong)


def test_without_carbontrackers_table_the_typed_intensities_remain(monkeypatch):
    monkeypatch.setattr(intensities.resources, "files", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name)))
    assert intensities._countries() == {}
