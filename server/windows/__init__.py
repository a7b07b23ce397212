"""Features that are windows over events: one definition, for serving and for training.

`declare` is what feature repositories use; `definition` reads it back from the registry.
`training` computes the same features from the batch source, `backfill` fills the tiles from it, and
`consume` feeds them from a stream.
"""

from hotfeast.server.windows.declare import event_tags, window_field

__all__ = ["event_tags", "window_field"]
