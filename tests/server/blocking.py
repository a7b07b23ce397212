"""An on-demand view whose function waits until a test lets it go on."""

import threading

import pandas as pd
from feast import FeatureStore, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from market import user, user_stats


class Gate:
    """What functions wait for."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.reset(opened=True)

    def reset(self, opened: bool = False) -> None:
        """Starts anew."""
        self.opened = opened
        self.inside = self.most = 0

    def open(self) -> None:
        """Lets all that wait go on, and all that come later."""
        with self._condition:
            self.opened = True
            self._condition.notify_all()

    def wait(self) -> None:
        """Waits until the gate is open."""
        with self._condition:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._condition.wait_for(lambda: self.opened)
            self.inside -= 1


GATE = Gate()


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[RequestSource(name="amount", schema=[Field(name="amount", dtype=Float64)])],
    schema=[Field(name="waited", dtype=Float64)],
    mode="pandas",
)
def waiting(inputs: pd.DataFrame) -> pd.DataFrame:
    """Doubles an amount, when the gate is open."""
    import pandas as pd
    from blocking import GATE

    GATE.wait()
    out = pd.DataFrame()
    out["waited"] = inputs["amount"] * 2
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[RequestSource(name="amount", schema=[Field(name="amount", dtype=Float64)])],
    entities=[user],
    schema=[Field(name="user_id", dtype=Int64), Field(name="kept", dtype=Float64)],
    mode="pandas",
    write_to_online_store=True,
)
def waiting_to_be_kept(inputs: pd.DataFrame) -> pd.DataFrame:
    """The same, and its results are stored."""
    import pandas as pd
    from blocking import GATE

    GATE.wait()
    out = pd.DataFrame()
    out["kept"] = inputs["amount"] * 2
    return out


def make(store: FeatureStore) -> None:
    """Applies the definitions, and closes the gate."""
    GATE.reset(opened=True)
    store.apply([user, user_stats, waiting, waiting_to_be_kept])
    GATE.reset()
