"""The panel *Runs*: what was trained, how each run stands, and what to do with it."""
