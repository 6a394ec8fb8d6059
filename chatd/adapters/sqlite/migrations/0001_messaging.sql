CREATE TABLE users (
    no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL
) STRICT;
CREATE TABLE devices (
    no INTEGER PRIMARY KEY,
    user INTEGER NOT NULL REFERENCES users,
    name TEXT NOT NULL,
    cseq INTEGER NOT NULL DEFAULT 0,
    UNIQUE (user, name)
) STRICT;
CREATE TABLE conversations (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    history TEXT NOT NULL,
    dm_low INTEGER,
    dm_high INTEGER,
    head INTEGER NOT NULL,
    newest INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX conversations_dm ON conversations (dm_low, dm_high) WHERE kind = 'dm';
CREATE TABLE members (
    no INTEGER PRIMARY KEY,
    conv INTEGER NOT NULL REFERENCES conversations,
    user INTEGER NOT NULL REFERENCES users,
    role TEXT NOT NULL,
    joined INTEGER NOT NULL,
    first INTEGER NOT NULL,
    left INTEGER,
    read INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    began INTEGER NOT NULL,
    UNIQUE (conv, user)
) STRICT;
CREATE INDEX members_user ON members (user, conv);
CREATE INDEX members_began ON members (began);
CREATE TABLE cursors (
    device INTEGER NOT NULL REFERENCES devices,
    conv INTEGER NOT NULL REFERENCES conversations,
    seq INTEGER NOT NULL,
    PRIMARY KEY (device, conv)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    no INTEGER PRIMARY KEY,
    conv INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    sender INTEGER NOT NULL,
    device INTEGER NOT NULL,
    cseq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    digest BLOB NOT NULL,
    payload BLOB NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX events_log ON events (conv, seq);
CREATE UNIQUE INDEX events_sends ON events (device, cseq) WHERE cseq > 0;
CREATE TABLE blocks (
    blocker INTEGER NOT NULL REFERENCES users,
    blocked INTEGER NOT NULL REFERENCES users,
    PRIMARY KEY (blocker, blocked)
) STRICT, WITHOUT ROWID;
