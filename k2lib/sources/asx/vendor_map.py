"""The `vendor_data` column: one map a row, built by columns."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from k2lib.model.schemas import TRADE


def vendor_map(fields: Mapping[str, pa.Array | str], n_rows: int) -> pa.MapArray:
    """Build one map a row from columns of text, or one text for all rows.

    Args:
        fields: key to values; an empty text is left out of that row's map.
    Returns:
        Maps with their keys in alphabetical order.
    """
    names = sorted(fields)
    pools = [_pool(fields[name], n_rows) for name in names]
    starts = np.cumsum([0, *(len(values) for values, _ in pools)])[:-1]
    codes = np.column_stack([c + start for (_, c), start in zip(pools, starts, strict=True)])
    texts = pa.concat_arrays([values for values, _ in pools])
    there = (np.array([len(text) for text in texts.to_pylist()], np.int64) > 0)[codes]
    keys = np.broadcast_to(np.arange(len(names)), there.shape)[there]
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    return pa.MapArray.from_arrays(
        pa.array(offsets),
        pa.array(names, pa.string()).take(pa.array(keys)),
        texts.take(pa.array(codes[there])),
        type=TRADE.arrow.field("vendor_data").type,
    )


def _pool(values: pa.Array | str, n_rows: int) -> tuple[pa.Array, np.ndarray]:
    if isinstance(values, str):
        return pa.array([values], pa.string()), np.zeros(n_rows, np.int64)
    encoded = values.dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
