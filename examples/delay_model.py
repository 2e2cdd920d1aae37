"""Predict how late flights arrive, with a scikit-learn model that each worker loads once.

Train it, then use it; both run in an environment that Pillion builds from the requirements and keeps:

    pillion run examples/delay_model.py:train --input examples/data/flights.parquet --output demo-output/training.csv \
        --batch-rows all --requirements examples/requirements-sklearn.txt
    pillion run examples/delay_model.py:arrival_delay --input examples/data/flights.parquet --output demo-output/delays.csv \
        --into predicted --workers 2 --requirements examples/requirements-sklearn.txt
"""

from pathlib import Path

import joblib
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error

from pillion import FunctionContext, ScalarFunction, map_function, udf

MODEL = Path(__file__).resolve().parent.parent / "demo-output" / "delay_model.joblib"
FEATURES = ["dep_delay", "distance", "hour"]


@map_function(result_type={"flights": "bigint", "mean_error_minutes": "double"}, func_type="pandas")
def train(flights: pd.DataFrame) -> pd.DataFrame:
    """Fit the model on nine of ten flights that arrived, save it, and return how far off it is on the rest."""
    arrived = flights.dropna(subset=["arr_delay"]).reset_index(drop=True)
    held_back = arrived.index % 10 == 0
    model = HistGradientBoostingRegressor(random_state=0)
    model.fit(arrived.loc[~held_back, FEATURES], arrived.loc[~held_back, "arr_delay"])
    error = mean_absolute_error(arrived.loc[held_back, "arr_delay"], model.predict(arrived.loc[held_back, FEATURES]))
    MODEL.parent.mkdir(exist_ok=True)
    joblib.dump(model, MODEL)
    return pd.DataFrame({"flights": [len(arrived)], "mean_error_minutes": [error]})


class ArrivalDelay(ScalarFunction):
    """Minutes that a flight arrives late, from its delay at departure, the distance and the hour of the day."""

    def open(self, function_context: FunctionContext) -> None:
        """Load the model: once per worker, not once per batch."""
        if not MODEL.exists():
            raise FileNotFoundError(f"{MODEL} does not exist: run `examples/delay_model.py:train` first")
        self.model = joblib.load(MODEL)

    def eval(self, dep_delay: pd.Series, distance: pd.Series, hour: pd.Series) -> pd.Series:
        """Predict a whole batch in one call."""
        flights = pd.DataFrame({"dep_delay": dep_delay, "distance": distance, "hour": hour}, dtype="float64")
        return pd.Series(self.model.predict(flights))


arrival_delay = udf(ArrivalDelay, result_type="double", func_type="pandas", name="arrival_delay")
