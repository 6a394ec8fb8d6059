ALTER TABLE members ADD COLUMN muted INTEGER NOT NULL DEFAULT 0;
CREATE TABLE edits (
    conv INTEGER NOT NULL,
    target INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (conv, target, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE reactions (
    conv INTEGER NOT NULL,
    target INTEGER NOT NULL,
    emoji TEXT NOT NULL,
    user INTEGER NOT NULL,
    PRIMARY KEY (conv, target, emoji, user)
) STRICT, WITHOUT ROWID;
CREATE TABLE mentions (
    user INTEGER NOT NULL,
    conv INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (user, conv, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE pins (
    conv INTEGER NOT NULL,
    target INTEGER NOT NULL,
    PRIMARY KEY (conv, target)
) STRICT, WITHOUT ROWID;
CREATE TABLE replies (
    conv INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    root INTEGER NOT NULL,
    PRIMARY KEY (conv, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX replies_parent ON replies (conv, parent, seq);
CREATE INDEX replies_root ON replies (conv, root, seq);
