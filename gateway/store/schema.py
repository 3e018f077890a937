"""The tables of the store, the same for SQLite and PostgreSQL.

Fields that are searched or unique have a column; a record's other fields are in its JSON, so that a new
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
# The channel on which PostgreSQL notifies of each change of the state; the payload is the new version.
CHANNEL: Final = "loragate_state"
# The id of the only row of `state` and of `leader`.
ONLY: Final = 1

metadata: Final = MetaData()

# Alembic's own table of revisions, in separate metadata, so that Alembic does not treat it as part of the schema.
revision = Table(
    REVISION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{REVISION_TABLE}_pkc"),
)

# `journal_number` and `journal_hash` name the last journal entry, so that removing entries at the end is noticed.
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

# Every version of every route; they stay when the route is removed.
route_versions = Table(
    "route_versions",
    metadata,
    Column("alias", Text),
    Column("number", BigInteger, autoincrement=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("alias", "number", name="route_versions_pkey"),
)

# `number` grows with each fingerprint of a version, and orders them by age.
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
    # Unique among open rollouts, so that a route has at most one at a time even if code has an error. The WHERE clause
    # is in PARTIAL_INDEXES: here it would import every driver's dialect, which takes a tenth of a second.
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

# The name of the leader, for operators, and its beats, a count that grows while it is alive (PostgreSQL).
leader = Table(
    "leader",
    metadata,
    Column("id", Integer, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("beats", BigInteger, nullable=False),
    PrimaryKeyConstraint("id", name="leader_pkey"),
)

# The running gateways; `beats` grows while a gateway is alive. `id` is new at each start.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text),
    Column("beats", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("id", name="replicas_pkey"),
)

# The counts of each gateway for stages of open rollouts; they stay when the gateway ends.
tallies = Table(
    "tallies",
    metadata,
    Column("rollout", Text),
    Column("stage", BigInteger, autoincrement=False),
    Column("replica", Text),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("rollout", "stage", "replica", name="tallies_pkey"),
)

# The queue of samples that wait to be judged, or failed; its rows are small, since they are read and changed all the
# time. A judged sample has no row here. `state`: 0 open, 1 failed. `ready`: when the sample may be claimed, or when the
# claim of its `holder` runs out. `died`: number of claims that ran out. `keeps`: whether the texts are kept after
# judging. Times are Unix seconds.
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

# The texts of clients and engines, kept until `expires`. `content` is a Sample as MessagePack.
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

# `pairs`: the number of the newest pair; it is changed in the transaction that uses the number, so that numbers rise
# in the order of commits. `forgetting`: a row that a gateway locks while it deletes expired texts.
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

# The words in a pair's drift, which are deleted with its sample's texts.
pair_words = Table(
    "pair_words",
    metadata,
    Column("sample", Text),
    Column("expires", Double, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("sample", name="pair_words_pkey"),
    Index("pair_words_expires", "expires"),
)

# Tokens spent on judging. `slot` counts minutes; each evaluator has its own row, so that none waits for another.
spending = Table(
    "spending",
    metadata,
    Column("alias", Text),
    Column("slot", BigInteger, autoincrement=False),
    Column("holder", Text),
    Column("tokens", BigInteger, nullable=False),
    PrimaryKeyConstraint("alias", "slot", "holder", name="spending_pkey"),
)

# Feedback on replies. `is_bad` is NULL for a label, which is neither good nor bad; `is_resolved` is true once the
# request that the feedback is about is known.
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

# Traffic figures of a version at its promotion.
baselines = Table(
    "baselines",
    metadata,
    Column("version", Text),
    Column("at", Double, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("version", name="baselines_pkey"),
)

# Leases: the holder of an exclusive right, such as scoring on an engine, and until when.
turns = Table(
    "turns",
    metadata,
    Column("name", Text),
    Column("holder", Text, nullable=False),
    Column("until", Double, nullable=False),
    PrimaryKeyConstraint("name", name="turns_pkey"),
)

# The running evaluators and their counts; `seen` is the last beat by the database's clock.
evaluators = Table(
    "evaluators",
    metadata,
    Column("id", Text),
    Column("seen", Double, nullable=False),
    Column("record", Text, nullable=False),
    PrimaryKeyConstraint("id", name="evaluators_pkey"),
)

# Indexes with a WHERE clause, which the tables above leave out; see `rollouts_open`.
PARTIAL_INDEXES: Final = {"rollouts_open": "CREATE UNIQUE INDEX rollouts_open ON rollouts (alias) WHERE is_open"}

# The rows that a new store begins with.
FIRST_ROWS: Final[tuple[tuple[Table, tuple[dict[str, Any], ...]], ...]] = (
    (state, ({"id": ONLY, "version": 0, "fence": 0, "journal_number": 0, "journal_hash": ""},)),
    (leader, ({"id": ONLY, "holder": "", "beats": 0},)),
    (counters, ({"name": "pairs", "value": 0}, {"name": "forgetting", "value": 0})),
)
