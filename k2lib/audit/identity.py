"""Identity: the message_id of each row, computed again from the row by SQL.

A message_id is the UUIDv5 of a text in K2's namespace. Equal rows of one ASX file are told apart
by a number at the end of the text: 0, 1, ... The ids of n equal rows are those of 0 to n - 1.
"""

import uuid
from typing import Final

from duckdb import DuckDBPyConnection

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2")

# RFC 9562: the SHA-1 of namespace and text, with the version 5 and the variant written into it.
UUID5: Final = f"""
CREATE MACRO uuid5(text) AS (
    SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-5' || substr(h, 14, 3) || '-'
        || substr('89ab', 1 + ('0x' || substr(h, 17, 1))::INT % 4, 1) || substr(h, 18, 3)
        || '-' || substr(h, 21, 12)
    FROM (SELECT sha1(unhex('{NAMESPACE.hex}') || encode(text)) AS h)
)"""
# A decimal with eight places as the integer that is 10^8 times as large; empty where it is null.
UNITS: Final = (
    "CREATE MACRO units(d) AS coalesce(replace(d::VARCHAR, '.', '')::BIGINT::VARCHAR, '')"
)
FIELD: Final = "CREATE MACRO field(m, name) AS coalesce(m[name], '')"
SYDNEY: Final = """
CREATE MACRO sydney(t) AS strftime(timezone('Australia/Sydney', t), '%Y-%m-%d|%H:%M:%S.%g')"""

# Whether equal rows are numbered, and the text without that number.
TEXTS: Final = {
    "trades_v2": """
        SELECT message_id, source_sequence IS NULL AS numbered,
            CASE WHEN source_sequence IS NOT NULL
                THEN exchange || '|' || symbol || '|' || source_sequence
                ELSE concat_ws('|', exchange, symbol, sydney(timestamp),
                    units(price), units(quantity), field(vendor_data, 'qualifiers'),
                    field(vendor_data, 'venue'), field(vendor_data, 'buyer_id'))
            END AS text""",
    "quotes_v2": """
        SELECT message_id, source_sequence IS NULL AS numbered,
            CASE WHEN source_sequence IS NOT NULL
                THEN exchange || '|Q|' || symbol || '|' || source_sequence
                ELSE concat_ws('|', exchange, 'Q', symbol, sydney(timestamp),
                    units(bid_price), units(bid_quantity), units(ask_price), units(ask_quantity))
            END AS text""",
    "reference_v2": """
        SELECT message_id, false AS numbered,
            concat_ws('|', exchange, 'R', company_id, symbol, company_name, coalesce(isin, ''),
                field(vendor_data, 'start_date'), field(vendor_data, 'end_date')) AS text""",
    # Of a long record only the beginning is kept, and its SHA-256 cannot be computed from that.
    "dead_letters": """
        SELECT message_id, false AS numbered,
            CASE WHEN octet_length(raw) = raw_size
                THEN concat_ws('|', source, position, sha256(raw)) END AS text""",
    "gaps": """
        SELECT message_id, false AS numbered,
            uuid5(concat_ws('|', exchange, symbol, from_id)) || '|' || revision AS text""",
}


def create_macros(connection: DuckDBPyConnection) -> None:
    """Make the functions that texts are written with."""
    for macro in (UUID5, UNITS, FIELD, SYDNEY):
        connection.execute(macro)


def other_ids(connection: DuckDBPyConnection, table: str) -> tuple[int, str | None, int]:
    """Return how many rows have another id than they should, one of them, and how many cannot tell.

    Rows that another engine deleted count among equal rows: theirs may be the lower numbers.
    """
    connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW texts AS
            {TEXTS[table]}, true AS stored FROM {table}.rows
            UNION ALL
            {TEXTS[table]}, false AS stored FROM {table}.deleted"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE other AS
        SELECT message_id, numbered, text FROM texts
        WHERE stored AND message_id <> uuid5(CASE WHEN numbered THEN text || '|0' ELSE text END)"""
    )
    count, example = connection.execute(
        """WITH equal_rows AS (
            SELECT text, count(*) AS n FROM texts
            WHERE numbered AND text IN (SELECT text FROM other) GROUP BY text
        ),
        theirs AS (
            SELECT uuid5(text || '|' || number) AS message_id
            FROM (SELECT text, unnest(range(1, n)) AS number FROM equal_rows)
        )
        SELECT count(*), min(message_id) FROM other ANTI JOIN theirs USING (message_id)"""
    ).fetchall()[0]
    (unknown,) = connection.execute(
        "SELECT count(*) FROM texts WHERE stored AND (text IS NULL OR message_id IS NULL)"
    ).fetchall()[0]
    return count, example, unknown
