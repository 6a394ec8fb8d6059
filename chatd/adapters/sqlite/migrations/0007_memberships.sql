CREATE TABLE past_memberships (
    conv INTEGER NOT NULL,
    user INTEGER NOT NULL,
    joined INTEGER NOT NULL,
    left INTEGER NOT NULL,
    PRIMARY KEY (conv, user, joined)
) STRICT, WITHOUT ROWID;
