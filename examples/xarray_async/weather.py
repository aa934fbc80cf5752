"""A data set like those of weather services: many packed variables on one grid, with coordinates and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray

if TYPE_CHECKING:
    from pathlib import Path

SEED = 2
# name: standard name, unit, mean, spread
VARIABLES = {
    "t2m": ("air_temperature", "K", 285.0, 15.0),
    "d2m": ("dew_point_temperature", "K", 278.0, 12.0),
    "sst": ("sea_surface_temperature", "K", 290.0, 8.0),
    "msl": ("air_pressure_at_mean_sea_level", "Pa", 101_300.0, 900.0),
    "sp": ("surface_air_pressure", "Pa", 98_000.0, 4_000.0),
    "u10": ("eastward_wind", "m s-1", 0.0, 6.0),
    "v10": ("northward_wind", "m s-1", 0.0, 6.0),
    "tcc": ("cloud_area_fraction", "1", 0.5, 0.2),
    "tp": ("precipitation_amount", "kg m-2", 2.0, 0.5),
    "sd": ("surface_snow_amount", "kg m-2", 20.0, 5.0),
    "ssrd": ("surface_downwelling_shortwave_flux_in_air", "W m-2", 200.0, 60.0),
    "strd": ("surface_downwelling_longwave_flux_in_air", "W m-2", 320.0, 40.0),
}


def weather(nb_hours: int, nb_lats: int) -> xarray.Dataset:
    """Return the data set; the sea has no snow, and the land no sea surface temperature.

    Parameters
    ----------
    nb_hours
        Length of ``time``.
    nb_lats
        Length of ``lat``; ``lon`` has twice as many.
    """
    random = np.random.default_rng(SEED)
    shape = (nb_hours, nb_lats, 2 * nb_lats)
    sea = np.add.outer(np.sin(np.linspace(0, 9, shape[1])), np.cos(np.linspace(0, 12, shape[2]))) > 0
    variables = {}
    for name, (standard_name, unit, mean, spread) in VARIABLES.items():
        values = (mean + spread * random.standard_normal(shape, np.float32)).astype(np.float32)
        if name in ("sst", "sd"):
            values[:, sea != (name == "sst")] = np.nan
        variables[name] = (("time", "lat", "lon"), values, {"standard_name": standard_name, "units": unit})
    return xarray.Dataset(
        variables,
        {
            "time": np.datetime64("2025-01-01", "ns") + np.arange(nb_hours) * np.timedelta64(1, "h"),
            "lat": ("lat", np.linspace(90, -90, nb_lats), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(0, 360, 2 * nb_lats, endpoint=False), {"units": "degrees_east"}),
        },
        {"Conventions": "CF-1.11", "title": "Weather that never was"},
    )


def write(dataset: xarray.Dataset, path: Path) -> None:
    """Write it as a web server needs it: metadata in one place, numbers packed into 16 bits, and shards by day."""
    _, nb_lats, nb_lons = dataset["t2m"].shape
    chunks = (6, -(-nb_lats // 4), -(-nb_lons // 4))
    # A shard holds whole subchunks, also where the grid ends before the last of them does.
    shards = tuple(4 * size for size in chunks)
    packed = {
        name: {
            "dtype": "i2",
            "scale_factor": spread / 3000,
            "add_offset": mean,
            "_FillValue": -32768,
            "chunks": chunks,
            "shards": shards,
        }
        for name, (_, _, mean, spread) in VARIABLES.items()
    }
    dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=True, encoding=packed)
