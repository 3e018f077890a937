"""The tables, the same for SQLite and PostgreSQL.

What is looked up or kept unique has a column; the rest of a record is its JSON, so that a new
field needs no migration. A change to a table needs a migration after `r0004_baseline.py`, and a test
that a migrated store has the very tables of a new one.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

# Every revision that this release can read, oldest first. Schemas before 0004 were never released.
REVISIONS: Final = ("0004",)
HEAD: Final = REVISIONS[-1]
# Not Alembic's own `alembic_version`, which another application in the same database may have.
REVISION_TABLE: Final = "loragate_schema"
# PostgreSQL tells of each change on this channel, with the new version.
CHANNEL: Final = "loragate_state"
# The only row of `state` and of `leader`.
ONLY: Final = 1

metadata: Final = MetaData()

# As Alembic makes it; apart from the others, which it must not take it for.
revision = Table(
    REVISION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{REVISION_TABLE}_pkc"),
)

# `journal_number` and `journal_hash`: the last journal record, so that cutting off the end is seen.
state = Table(
    "state",
    metadata,
    Column("id", Integer, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("journal_number", BigInteger, nullable=False),
    Column("journal_hash", Text, nullable=False),
    PrimaryKeyConstraint("id", name="state_pkey"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text),
    Column("digest", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("id", name="keys_pkey"),
    Index("keys_digest", "digest", unique=True),
)

adapters = Table(
    "adapters",
    metadata,
    Column("version", Text),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("version", name="adapters_pkey"),
    Index("adapters_name", "name"),
)

routes = Table(
    "routes",
    metadata,
    Column("alias", Text),
    Column("position", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("alias", name="routes_pkey"),
)

# Every version of every route, kept when the route goes.
route_versions = Table(
    "route_versions",
    metadata,
    Column("alias", Text),
    Column("number", BigInteger, autoincrement=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("alias", "number", name="route_versions_pkey"),
)

# `number` grows, so that the oldest come first.
fingerprints = Table(
    "fingerprints",
    metadata,
    Column("version", Text),
    Column("engine", Text),
    Column("number", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("version", "engine", name="fingerprints_pkey"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Text),
    Column("alias", Text, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("id", name="rollouts_pkey"),
    # Unique among the open ones, so that a route has one rollout at a time whatever the code above thinks. WHERE is
    # said in PARTIAL_INDEXES: to say it here would import every driver's dialect, which takes a tenth of a second.
    Index("rollouts_open", "alias", unique=True),
    Index("rollouts_alias", "alias", "position"),
)

journal = Table(
    "journal",
    metadata,
    Column("number", BigInteger, autoincrement=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("number", name="journal_pkey"),
)

# `status` and `body` are empty while the request is being worked on.
idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Text),
    Column("request", Text, nullable=False),
    Column("status", Integer),
    Column("body", Text),
    Column("expires", BigInteger, nullable=False),
    PrimaryKeyConstraint("key", name="idempotency_pkey"),
    Index("idempotency_expires", "expires"),
)

# Who leads, for people; and a count that grows while they live (PostgreSQL).
leader = Table(
    "leader",
    metadata,
    Column("id", Integer, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("beats", BigInteger, nullable=False),
    PrimaryKeyConstraint("id", name="leader_pkey"),
)

# Gateways that run; `beats` grows while one lives. `id` is made anew at each start.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text),
    Column("beats", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("id", name="replicas_pkey"),
)

# What each replica has counted of open rollouts' stages; one that has ended leaves its counts.
tallies = Table(
    "tallies",
    metadata,
    Column("rollout", Text),
    Column("stage", BigInteger, autoincrement=False),
    Column("replica", Text),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("rollout", "stage", "replica", name="tallies_pkey"),
)

# Samples that wait to be judged, or failed for good: the queue, small, since it is read and changed all the time. One
# that was judged has no row here. `state`: 0 open, 1 failed. `ready`: when it may be claimed, or the claim of its
# `holder` runs out. `died`: claims that ran out. `keeps`: whether its texts outlive its being judged. Unix seconds.
samples = Table(
    "samples",
    metadata,
    Column("id", Text),
    Column("alias", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("ready", Double, nullable=False),
    Column("holder", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("died", Integer, nullable=False),
    Column("keeps", Boolean, nullable=False),
    Column("expires", Double, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("id", name="samples_pkey"),
    Index("samples_due", "state", "at"),
)

# What clients and engines wrote, until `expires`. `content` is a Sample as MessagePack.
sample_texts = Table(
    "sample_texts",
    metadata,
    Column("id", Text),
    Column("expires", Double, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id", name="sample_texts_pkey"),
    Index("sample_texts_expires", "expires", "size"),
)

# `pairs`: the last number given; it is changed in the transaction that uses the number, so that numbers rise in the
# order of commits. `forgetting`: whose turn it is to delete what has expired.
counters = Table(
    "counters",
    metadata,
    Column("name", Text),
    Column("value", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", name="counters_pkey"),
)

pairs = Table(
    "pairs",
    metadata,
    Column("number", BigInteger, autoincrement=False),
    Column("sample", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("rollout", Text, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("number", name="pairs_pkey"),
    Index("pairs_sample", "sample", unique=True),
    Index("pairs_alias", "alias", "number"),
    Index("pairs_rollout", "rollout", "number"),
    Index("pairs_alias_at", "alias", "at", "number"),
    Index("pairs_at", "at", "number"),
)

# The words in a pair's drift, which go when its sample's texts go.
pair_words = Table(
    "pair_words",
    metadata,
    Column("sample", Text),
    Column("expires", Double, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("sample", name="pair_words_pkey"),
    Index("pair_words_expires", "expires"),
)

# Tokens that judging has cost. `slot` counts minutes; a row for each evaluator, so that none waits for another.
spending = Table(
    "spending",
    metadata,
    Column("alias", Text),
    Column("slot", BigInteger, autoincrement=False),
    Column("holder", Text),
    Column("tokens", BigInteger, nullable=False),
    PrimaryKeyConstraint("alias", "slot", "holder", name="spending_pkey"),
)

# What callers said of replies. `is_bad` is empty for what counts for neither; `is_resolved` once it is known of what.
feedback = Table(
    "feedback",
    metadata,
    Column("id", Text),
    Column("rollout", Text, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("arm", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("is_bad", Boolean),
    Column("is_resolved", Boolean, nullable=False),
    Column("at", Double, nullable=False),
    Column("record", Text, nullable=False),
    Column("unit", Text, nullable=False, server_default=""),
    PrimaryKeyConstraint("id", name="feedback_pkey"),
    Index("feedback_rollout", "rollout", "stage", "arm", "account", "is_bad"),
    Index("feedback_unresolved", "is_resolved", "at"),
    Index("feedback_at", "at"),
)

# What traffic to a version looked like when it was promoted.
baselines = Table(
    "baselines",
    metadata,
    Column("version", Text),
    Column("at", Double, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("version", name="baselines_pkey"),
)

# Who may do what only one may do at a time, such as scoring on an engine, and until when.
turns = Table(
    "turns",
    metadata,
    Column("name", Text),
    Column("holder", Text, nullable=False),
    Column("until", Double, nullable=False),
    PrimaryKeyConstraint("name", name="turns_pkey"),
)

# Evaluators that run, and what they have counted; `seen` by the database's clock.
evaluators = Table(
    "evaluators",
    metadata,
    Column("id", Text),
    Column("seen", Double, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("id", name="evaluators_pkey"),
)

# Indexes whose WHERE the tables above do not tell: see there.
PARTIAL_INDEXES: Final = {"rollouts_open": "CREATE UNIQUE INDEX rollouts_open ON rollouts (alias) WHERE is_open"}

# What a new store begins with.
FIRST_ROWS: Final[tuple[tuple[Table, tuple[dict[str, Any], ...]], ...]] = (
    (state, ({"id": ONLY, "version": 0, "fence": 0, "journal_number": 0, "journal_hash": ""},)),
    (leader, ({"id": ONLY, "holder": "", "beats": 0},)),
    (counters, ({"name": "pairs", "value": 0}, {"name": "forgetting", "value": 0})),
)
