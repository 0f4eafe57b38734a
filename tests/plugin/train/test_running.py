"""What surrounds a run of the Train panel."""

from __future__ import annotations

import gc

from napari_prosma.plugin.train.running import _no_old_garbage


def test_a_run_brings_back_only_what_it_left_out_of_the_search_for_garbage_itself():
    gc.unfreeze()
    with _no_old_garbage():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
    gc.freeze()
    with _no_old_garbage():
        pass
    assert gc.get_freeze_count() > 0
