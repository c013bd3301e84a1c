"""One row a price, the newest price in one row, jobs with leases; outbox, offsets, dead letters, heartbeats.

Revision 0002, after 0001. No row is lost, up or down. A row that the new constraints do not allow (the same price twice, a
price that is not above zero, an average without its price) waits in a table of the same name in the schema `set_aside`,
and comes back on the way down. On the way down the tables and columns that 0001 does not have wait there, and come back on
the way up. `latest_prices` and `heartbeats` are made anew. A `raw_response_id` that points nowhere becomes null.

Averages are kept as they are; scripts/recompute_averages.py works them out from the prices.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Of two rows for the same thing the one written last counts. The order matters: averages look for their prices.
NOT_ALLOWED = {
    "market_prices": """
        NOT (old.price > 0 AND old.price < 'NaN') OR EXISTS (
            SELECT FROM market_prices AS newer
            WHERE (newer.symbol, newer.provider, newer.ts) = (old.symbol, old.provider, old.ts)
              AND newer.id > old.id AND newer.price > 0 AND newer.price < 'NaN')
    """,
    "polling_job_configs": """
        old.interval_minutes NOT BETWEEN 1 AND 10080 OR old.status NOT IN ('active', 'paused') OR EXISTS (
            SELECT FROM polling_job_configs AS newer
            WHERE (newer.symbol, newer.provider) = (old.symbol, old.provider) AND newer.id > old.id
              AND newer.interval_minutes BETWEEN 1 AND 10080 AND newer.status IN ('active', 'paused'))
    """,
    "moving_averages": """
        NOT EXISTS (
            SELECT FROM market_prices AS mine
            WHERE (mine.symbol, mine.provider, mine.ts) = (old.symbol, old.provider, old.ts))
    """,
}
COLUMNS_OF_0001 = {
    "market_prices": "id, symbol, provider, price, ts, raw_response_id",
    "polling_job_configs": "id, symbol, provider, interval_minutes, status, created_at",
    "moving_averages": "symbol, provider, ts, avg_price",
}
COLUMNS_KEPT = {
    "market_prices": ["fetched_at"],
    "polling_job_configs": ["backfill", "next_run_at", "last_run_at", "last_error", "failures"],
}

CHANGES = """
CREATE INDEX ix_raw_responses_fetched_at ON raw_responses (fetched_at);

UPDATE market_prices AS price SET raw_response_id = NULL
WHERE raw_response_id IS NOT NULL AND NOT EXISTS (SELECT FROM raw_responses WHERE id = price.raw_response_id);
ALTER TABLE market_prices ADD COLUMN fetched_at timestamptz;
UPDATE market_prices AS price
SET fetched_at = coalesce((SELECT fetched_at FROM raw_responses WHERE id = price.raw_response_id), ts);
ALTER TABLE market_prices
    ALTER COLUMN fetched_at SET NOT NULL,
    ALTER COLUMN fetched_at SET DEFAULT now(),
    ADD CONSTRAINT ck_market_prices_price_positive CHECK (price > 0 AND price < 'NaN'),
    ADD CONSTRAINT uq_market_prices_symbol_provider_ts UNIQUE (symbol, provider, ts),
    ADD CONSTRAINT fk_market_prices_raw_response_id FOREIGN KEY (raw_response_id)
        REFERENCES raw_responses (id) ON DELETE SET NULL;
CREATE INDEX ix_market_prices_newest ON market_prices (symbol, provider, ts DESC, id DESC);
CREATE INDEX ix_market_prices_raw_response_id ON market_prices (raw_response_id);

ALTER TABLE polling_job_configs
    ADD COLUMN backfill boolean NOT NULL DEFAULT false,
    ADD COLUMN next_run_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN lease_owner text,
    ADD COLUMN last_run_at timestamptz,
    ADD COLUMN last_error text,
    ADD COLUMN failures integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT uq_polling_job_configs_symbol_provider UNIQUE (symbol, provider),
    ADD CONSTRAINT ck_polling_job_configs_interval_within_a_week CHECK (interval_minutes BETWEEN 1 AND 10080),
    ADD CONSTRAINT ck_polling_job_configs_status_known CHECK (status IN ('active', 'paused'));
CREATE INDEX ix_polling_job_configs_due ON polling_job_configs (next_run_at) WHERE status = 'active';

ALTER TABLE moving_averages
    DROP CONSTRAINT pk_moving_averages,
    ADD COLUMN window_size integer NOT NULL DEFAULT 5,
    ADD COLUMN price_id bigint;
UPDATE moving_averages AS average SET price_id = price.id FROM market_prices AS price
WHERE (price.symbol, price.provider, price.ts) = (average.symbol, average.provider, average.ts);
ALTER TABLE moving_averages
    ALTER COLUMN window_size DROP DEFAULT,
    ALTER COLUMN price_id SET NOT NULL,
    ADD CONSTRAINT pk_moving_averages PRIMARY KEY (symbol, provider, window_size, ts);

CREATE TABLE latest_prices (
    symbol text NOT NULL,
    provider text NOT NULL,
    price numeric(18, 6) NOT NULL,
    ts timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    price_id bigint NOT NULL CONSTRAINT fk_latest_prices_price_id REFERENCES market_prices (id),
    CONSTRAINT pk_latest_prices PRIMARY KEY (symbol, provider)
);
CREATE INDEX ix_latest_prices_price_id ON latest_prices (price_id);

CREATE TABLE heartbeats (
    name text NOT NULL,
    instance text NOT NULL,
    beat_at timestamptz NOT NULL DEFAULT now(),
    details jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT pk_heartbeats PRIMARY KEY (name, instance)
);
"""

NEW_TABLES = {
    "outbox": """
        CREATE TABLE outbox (
            id bigint GENERATED BY DEFAULT AS IDENTITY CONSTRAINT pk_outbox PRIMARY KEY,
            topic text NOT NULL,
            key text NOT NULL,
            payload text NOT NULL,
            event_id uuid NOT NULL,
            traceparent text,
            created_at timestamptz NOT NULL DEFAULT now(),
            published_at timestamptz
        );
        CREATE INDEX ix_outbox_unpublished ON outbox (id, created_at) WHERE published_at IS NULL;
        CREATE INDEX ix_outbox_published_at ON outbox (published_at)
    """,
    "consumer_offsets": """
        CREATE TABLE consumer_offsets (
            consumer_group text NOT NULL,
            topic text NOT NULL,
            partition integer NOT NULL,
            next_offset bigint NOT NULL,
            CONSTRAINT pk_consumer_offsets PRIMARY KEY (consumer_group, topic, partition)
        )
    """,
    "dead_letters": """
        CREATE TABLE dead_letters (
            id bigint GENERATED BY DEFAULT AS IDENTITY CONSTRAINT pk_dead_letters PRIMARY KEY,
            topic text NOT NULL,
            partition integer NOT NULL,
            "offset" bigint NOT NULL,
            key bytea,
            payload bytea,
            reason text NOT NULL,
            detail text NOT NULL,
            first_failed_at timestamptz NOT NULL,
            attempts integer NOT NULL,
            status text NOT NULL DEFAULT 'waiting',
            CONSTRAINT uq_dead_letters_topic_partition_offset UNIQUE (topic, partition, "offset"),
            CONSTRAINT ck_dead_letters_status_known CHECK (status IN ('waiting', 'replayed', 'quarantined'))
        )
    """,
}

FILL_LATEST = """
INSERT INTO latest_prices (symbol, provider, price, ts, fetched_at, price_id)
SELECT DISTINCT ON (symbol, provider)
       symbol, provider, price, ts, max(fetched_at) OVER (PARTITION BY symbol, provider), id
FROM market_prices
ORDER BY symbol, provider, ts DESC, id DESC
"""

CHANGES_BACK = """
DROP TABLE latest_prices, heartbeats;

DELETE FROM moving_averages WHERE window_size <> 5;
ALTER TABLE moving_averages DROP CONSTRAINT pk_moving_averages, DROP COLUMN window_size, DROP COLUMN price_id;
ALTER TABLE moving_averages ADD CONSTRAINT pk_moving_averages PRIMARY KEY (symbol, provider, ts);

DROP INDEX ix_polling_job_configs_due;
ALTER TABLE polling_job_configs
    DROP CONSTRAINT uq_polling_job_configs_symbol_provider,
    DROP CONSTRAINT ck_polling_job_configs_interval_within_a_week,
    DROP CONSTRAINT ck_polling_job_configs_status_known,
    DROP COLUMN backfill,
    DROP COLUMN next_run_at,
    DROP COLUMN lease_until,
    DROP COLUMN lease_owner,
    DROP COLUMN last_run_at,
    DROP COLUMN last_error,
    DROP COLUMN failures;

DROP INDEX ix_market_prices_newest, ix_market_prices_raw_response_id, ix_raw_responses_fetched_at;
ALTER TABLE market_prices
    DROP CONSTRAINT ck_market_prices_price_positive,
    DROP CONSTRAINT uq_market_prices_symbol_provider_ts,
    DROP CONSTRAINT fk_market_prices_raw_response_id,
    DROP COLUMN fetched_at;
"""


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS set_aside")
    for table, condition in NOT_ALLOWED.items():
        set_aside(table, condition)
    op.execute(CHANGES)
    for table, statement in NEW_TABLES.items():
        bring_back_table(table, statement)
    for table, columns in COLUMNS_KEPT.items():
        bring_back_columns(table, columns)
    if is_aside("averages_of_other_windows"):
        op.execute("INSERT INTO moving_averages SELECT * FROM set_aside.averages_of_other_windows")
        op.execute("DROP TABLE set_aside.averages_of_other_windows")
    op.execute(FILL_LATEST)
    drop_what_is_empty()


def downgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS set_aside")
    for table, columns in COLUMNS_KEPT.items():
        op.execute(f"CREATE TABLE set_aside.columns_of_{table} AS SELECT id, {', '.join(columns)} FROM {table}")
    op.execute(
        "CREATE TABLE set_aside.averages_of_other_windows AS SELECT * FROM moving_averages WHERE window_size <> 5"
    )
    for table in NEW_TABLES:
        op.execute(f"ALTER TABLE {table} SET SCHEMA set_aside")
    op.execute(CHANGES_BACK)
    for table in NOT_ALLOWED:
        put_back(table)


def set_aside(table: str, condition: str) -> None:
    """Move the rows of `table`, called `old`, that meet the condition."""
    op.execute(f"CREATE TABLE set_aside.{table} (LIKE {table})")
    op.execute(
        f"WITH gone AS (DELETE FROM {table} AS old WHERE {condition} RETURNING old.*) "
        f"INSERT INTO set_aside.{table} SELECT * FROM gone"
    )


def put_back(table: str) -> None:
    """The opposite of `set_aside`. An average that was worked out since is newer than the one that waited."""
    if not is_aside(table):
        return
    columns = COLUMNS_OF_0001[table]
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM set_aside.{table} ON CONFLICT DO NOTHING")
    op.execute(f"DROP TABLE set_aside.{table}")


def bring_back_table(table: str, statement: str) -> None:
    """The table as it was before a downgrade, else a new one."""
    if is_aside(table):
        op.execute(f"ALTER TABLE set_aside.{table} SET SCHEMA {op.get_bind().scalar(sa.func.current_schema())}")
    else:
        op.execute(statement)


def bring_back_columns(table: str, columns: list[str]) -> None:
    """The values that the rows of `table` had before a downgrade."""
    if not is_aside(f"columns_of_{table}"):
        return
    values = ", ".join(f"{column} = kept.{column}" for column in columns)
    op.execute(f"UPDATE {table} AS row SET {values} FROM set_aside.columns_of_{table} AS kept WHERE kept.id = row.id")
    op.execute(f"DROP TABLE set_aside.columns_of_{table}")


def is_aside(table: str) -> bool:
    return op.get_bind().scalar(sa.text("SELECT to_regclass(:name)"), {"name": f"set_aside.{table}"}) is not None


def drop_what_is_empty() -> None:
    """No schema `set_aside` where every row was allowed."""
    bind = op.get_bind()
    for table in NOT_ALLOWED:
        if not bind.scalar(sa.text(f"SELECT EXISTS (SELECT FROM set_aside.{table})")):
            op.execute(f"DROP TABLE set_aside.{table}")
    if not any(map(is_aside, NOT_ALLOWED)):
        op.execute("DROP SCHEMA set_aside")
