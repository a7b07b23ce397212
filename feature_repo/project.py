"""The Feast project; its name is the one in feature_store.yaml."""

from conventions import SERVING_OWNER
from feast import Project

hotfeast_demo = Project(
    name="hotfeast_demo",
    description="Retail features of simulated 2017 shopping data, for the Hotfeast demo.",
    owner=SERVING_OWNER,
    tags={"domain": "retail"},
)
