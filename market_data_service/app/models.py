"""The tables: the schema of record. Migrations bring a database to it, and a test holds the two together.

Prices are numeric(18,6) in the symbol's currency; times are timestamptz. `key` of the outbox is `provider:symbol`, the
key of the Kafka message.
"""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PRICE = Numeric(18, 6)
TIME = DateTime(timezone=True)
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """What all tables share: names of constraints that migrations can rely on."""

    metadata = MetaData(naming_convention=NAMES)


class RawResponse(Base):
    """What a provider answered, as it was used; `raw_response_id` of an event points here."""

    __tablename__ = "raw_responses"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    provider: Mapped[str] = mapped_column(Text)
    symbol: Mapped[str] = mapped_column(Text)
    fetched_at: Mapped[datetime.datetime] = mapped_column(TIME, server_default=func.now(), index=True)
    status: Mapped[int] = mapped_column(Integer)
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)


class MarketPrice(Base):
    """One price of a symbol at one time of its provider."""

    __tablename__ = "market_prices"
    __table_args__ = (
        CheckConstraint("price > 0 AND price < 'NaN'", name="price_positive"),
        UniqueConstraint("symbol", "provider", "ts"),
        Index("ix_market_prices_newest", "symbol", "provider", text("ts DESC"), text("id DESC")),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    symbol: Mapped[str] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    price: Mapped[Decimal] = mapped_column(PRICE)
    ts: Mapped[datetime.datetime] = mapped_column(TIME)
    fetched_at: Mapped[datetime.datetime] = mapped_column(TIME, server_default=func.now())
    raw_response_id: Mapped[int | None] = mapped_column(ForeignKey("raw_responses.id", ondelete="SET NULL"), index=True)


class LatestPrice(Base):
    """The newest price of each symbol and provider: what a request reads, one row whatever the history."""

    __tablename__ = "latest_prices"
    __table_args__ = (PrimaryKeyConstraint("symbol", "provider"),)
    symbol: Mapped[str] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    price: Mapped[Decimal] = mapped_column(PRICE)
    ts: Mapped[datetime.datetime] = mapped_column(TIME)
    fetched_at: Mapped[datetime.datetime] = mapped_column(TIME)
    price_id: Mapped[int] = mapped_column(ForeignKey("market_prices.id"), index=True)


class PollingJob(Base):
    """A symbol that is fetched every so often; a poller that works on it holds its lease."""

    __tablename__ = "polling_job_configs"
    __table_args__ = (
        UniqueConstraint("symbol", "provider"),
        CheckConstraint("interval_minutes BETWEEN 1 AND 10080", name="interval_within_a_week"),
        CheckConstraint("status IN ('active', 'paused')", name="status_known"),
        Index("ix_polling_job_configs_due", "next_run_at", postgresql_where=text("status = 'active'")),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    symbol: Mapped[str] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    interval_minutes: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(Text, server_default="active")
    backfill: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    next_run_at: Mapped[datetime.datetime] = mapped_column(TIME, server_default=func.now())
    lease_until: Mapped[datetime.datetime | None] = mapped_column(TIME)
    lease_owner: Mapped[str | None] = mapped_column(Text)
    last_run_at: Mapped[datetime.datetime | None] = mapped_column(TIME)
    last_error: Mapped[str | None] = mapped_column(Text)
    failures: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime.datetime] = mapped_column(TIME, server_default=func.now())


class MovingAverage(Base):
    """The mean of the `window_size` newest prices up to `ts`."""

    __tablename__ = "moving_averages"
    __table_args__ = (PrimaryKeyConstraint("symbol", "provider", "window_size", "ts"),)
    symbol: Mapped[str] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    window_size: Mapped[int] = mapped_column(Integer)
    ts: Mapped[datetime.datetime] = mapped_column(TIME)
    avg_price: Mapped[Decimal] = mapped_column(PRICE)
    price_id: Mapped[int] = mapped_column(BigInteger)


class Outbox(Base):
    """Events that are to be published, and have been; written in the transaction of the price."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_unpublished", "id", "created_at", postgresql_where=text("published_at IS NULL")),
        Index("ix_outbox_published_at", "published_at"),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    topic: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(Text)
    payload: Mapped[str] = mapped_column(Text)
    event_id: Mapped[uuid.UUID]
    traceparent: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime.datetime] = mapped_column(TIME, server_default=func.now())
    published_at: Mapped[datetime.datetime | None] = mapped_column(TIME)


class ConsumerOffset(Base):
    """Up to where a consumer group has worked, kept with its work."""

    __tablename__ = "consumer_offsets"
    __table_args__ = (PrimaryKeyConstraint("consumer_group", "topic", "partition"),)
    consumer_group: Mapped[str] = mapped_column(Text)
    topic: Mapped[str] = mapped_column(Text)
    partition: Mapped[int] = mapped_column(Integer)
    next_offset: Mapped[int] = mapped_column(BigInteger)


class DeadLetter(Base):
    """A message that was set aside, and why; the message itself is on the dead-letter topic too."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        UniqueConstraint("topic", "partition", "offset"),
        CheckConstraint("status IN ('waiting', 'replayed', 'quarantined')", name="status_known"),
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    topic: Mapped[str] = mapped_column(Text)
    partition: Mapped[int] = mapped_column(Integer)
    offset: Mapped[int] = mapped_column(BigInteger)
    key: Mapped[bytes | None] = mapped_column(LargeBinary)
    payload: Mapped[bytes | None] = mapped_column(LargeBinary)
    reason: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(Text)
    first_failed_at: Mapped[datetime.datetime] = mapped_column(TIME)
    attempts: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(Text, server_default="waiting")


class Heartbeat(Base):
    """When a process last said that it works, and what it saw; `GET /ready` looks here."""

    __tablename__ = "heartbeats"
    __table_args__ = (PrimaryKeyConstraint("name", "instance"),)
    name: Mapped[str] = mapped_column(Text)
    instance: Mapped[str] = mapped_column(Text)
    beat_at: Mapped[datetime.datetime] = mapped_column(TIME, server_default=func.now())
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
