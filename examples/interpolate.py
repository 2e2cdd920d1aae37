"""Fill gaps in sensor readings, per station, with pandas.

    printf 'id,temperature\n1,98.0\n1,\n1,100.0\n2,99.0\n' > readings.csv
    pillion run examples/interpolate.py:interpolate --input readings.csv --output filled.csv --batch-rows all \
        --requirements examples/requirements-pandas.txt

gives 98, 99, 100 and 99.

How batches are cut matters here. A map function sees one batch at a time, and `pillion run` cuts its input into batches of 10,000 rows
wherever that falls, so a station whose rows are spread over two batches would be interpolated in two halves. Either

* `--batch-rows all` makes the whole input one batch: always right, but it must fit into memory and only one worker has something to do; or
* `--batch-by COLUMN` cuts only where the value of the column changes: the rows of a station must stand together in the input (`run` checks
  that), and several workers share the stations.
"""

import pandas as pd

from pillion import map_function


@map_function(result_type={"id": "bigint", "temperature": "double"}, func_type="pandas")
def interpolate(readings: pd.DataFrame) -> pd.DataFrame:
    """Fill missing temperatures from the neighbours in time of the same station, at the ends from the nearest one."""
    stations = readings.groupby("id")["temperature"]
    return readings.assign(temperature=stations.transform(lambda t: t.interpolate(limit_direction="both")))


@map_function(func_type="pandas")
def weather(readings: pd.DataFrame) -> pd.DataFrame:
    """Fill missing wind gusts and pressures per airport; for `examples/data/weather.parquet`, with `--batch-by origin`."""
    gaps = readings.groupby("origin")[["wind_gust", "pressure"]]
    filled = gaps.transform(lambda values: values.interpolate(limit_direction="both"))
    return readings.assign(wind_gust=filled["wind_gust"], pressure=filled["pressure"])
