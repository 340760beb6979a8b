-- The tables that hosts of a fleet share: state=postgresql://...
--
--     psql -v ON_ERROR_STOP=1 -d hooks -f asana_hook.sql
--
-- as the owner of the database, who may create roles; it may be run again.
-- Then give the role a password, or a line in pg_hba.conf:
--
--     ALTER ROLE asana_hook PASSWORD '...';
--
-- Secrets are encrypted before they come here, by keys that the database never
-- sees.

BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'asana_hook') THEN
        CREATE ROLE asana_hook LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE
            NOREPLICATION;
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS asana_hook;

-- what the module asks for first: it refuses a version that it does not know
CREATE TABLE IF NOT EXISTS asana_hook.schema (
    version    integer  NOT NULL
);

INSERT INTO asana_hook.schema (version)
    SELECT 1 WHERE NOT EXISTS (SELECT FROM asana_hook.schema);

-- one row for each zone; who changes anything of a zone locks its row first
CREATE TABLE IF NOT EXISTS asana_hook.zones (
    zone       text     PRIMARY KEY,
    position   bigint   NOT NULL     -- of the last change in the journal
);

-- times are seconds of the epoch, 0 if it never happened
CREATE TABLE IF NOT EXISTS asana_hook.secrets (
    zone       text     NOT NULL REFERENCES asana_hook.zones,
    key        bytea    NOT NULL CHECK (octet_length(key) <= 480),
    id         bytea    NOT NULL CHECK (octet_length(id) = 8),
    pending    boolean  NOT NULL,
    created    bigint   NOT NULL,
    verified   bigint   NOT NULL,
    answered   bigint   NOT NULL,
    failing    bigint   NOT NULL,
    code       integer  NOT NULL,
    gid        bytea    NOT NULL CHECK (octet_length(gid) <= 32),
    sealed     bytea    NOT NULL CHECK (octet_length(sealed) <= 288),
    PRIMARY KEY (zone, key, id)
);

CREATE INDEX IF NOT EXISTS secrets_id ON asana_hook.secrets (zone, id);
CREATE INDEX IF NOT EXISTS secrets_gid ON asana_hook.secrets (zone, gid)
    WHERE gid <> '';
CREATE INDEX IF NOT EXISTS secrets_pending ON asana_hook.secrets
    (zone, created) WHERE pending;

-- by the id of the encryption key, for its rotation
CREATE INDEX IF NOT EXISTS secrets_sealed ON asana_hook.secrets
    (zone, substring(sealed FROM 2 FOR 4));

-- commits in their order, with the keys that were changed
CREATE TABLE IF NOT EXISTS asana_hook.journal (
    zone       text     NOT NULL REFERENCES asana_hook.zones,
    position   bigint   NOT NULL,
    keys       bytea[]  NOT NULL,
    PRIMARY KEY (zone, position)
);

-- calls to Asana that create a webhook, while they wait for their answer
CREATE TABLE IF NOT EXISTS asana_hook.creates (
    zone       text     NOT NULL REFERENCES asana_hook.zones,
    call       bytea    NOT NULL,
    started    bigint   NOT NULL,
    PRIMARY KEY (zone, call)
);

REVOKE ALL ON SCHEMA asana_hook FROM PUBLIC;
GRANT USAGE ON SCHEMA asana_hook TO asana_hook;
GRANT SELECT ON asana_hook.schema TO asana_hook;
GRANT SELECT, INSERT, UPDATE ON asana_hook.zones TO asana_hook;
GRANT SELECT, INSERT, UPDATE, DELETE ON asana_hook.secrets TO asana_hook;
GRANT SELECT, INSERT, DELETE ON asana_hook.journal TO asana_hook;
GRANT SELECT, INSERT, DELETE ON asana_hook.creates TO asana_hook;

COMMIT;
