
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_RECORDS_H_INCLUDED_
#define _NGX_ASANA_LMDB_RECORDS_H_INCLUDED_


#include "ngx_asana_secrets.h"

#include <lmdb.h>


#define NGX_ASANA_LMDB_FORMAT    2

/* meta, hooks, three by age, secrets_by_id, and four of format 1 */
#define NGX_ASANA_LMDB_MAX_DBS   12


/* where a secret stands in the order of its like */

typedef enum {
    NGX_ASANA_LMDB_PENDING = 0,
    NGX_ASANA_LMDB_UNPROVEN,        /* confirmed, never verified */
    NGX_ASANA_LMDB_PROVEN,
    NGX_ASANA_LMDB_AGES
} ngx_asana_lmdb_age_e;


/* handles, good for a process as long as its environment is open */

typedef struct {
    ngx_uint_t                 format;      /* 0: nothing is opened */
    MDB_dbi                    meta;
    MDB_dbi                    hooks;       /* format 1: "secrets" */
    MDB_dbi                    by_age[NGX_ASANA_LMDB_AGES];
    MDB_dbi                    by_id;
} ngx_asana_lmdb_dbs_t;


/* the databases within a transaction */

typedef struct {
    MDB_txn                   *txn;
    ngx_asana_lmdb_dbs_t       dbs;
    time_t                     now;
    uint64_t                   serial;      /* the last one given */
    ngx_uint_t                 dirty;       /* something was written */
} ngx_asana_lmdb_records_t;


/*
 * All of these return 0, or an error of LMDB or the system, if nothing else is
 * said.  MDB_NOTFOUND is an answer.  NGX_DECLINED says that a key or a value
 * is not what this module writes.
 */

/*
 * Sets the format that the store has in this transaction, 0 if it is empty.
 * NGX_AGAIN: the databases of the format are to be opened first.
 * MDB_VERSION_MISMATCH: it is a newer one.
 */
int ngx_asana_lmdb_records_format(ngx_asana_lmdb_records_t *recs,
    uint32_t *format);

/*
 * Opens the databases of the format that the store has, and makes them if it
 * is empty and flags is MDB_CREATE.  The handles are of use to others after a
 * commit.  No other transaction of the process may open any meanwhile.
 */
int ngx_asana_lmdb_records_open(ngx_asana_lmdb_records_t *recs,
    unsigned int flags);

/* Sets the format: all databases are to be there. */
int ngx_asana_lmdb_records_set_format(ngx_asana_lmdb_records_t *recs);

/* Opens or makes the databases of this format. */
int ngx_asana_lmdb_records_open_all(ngx_asana_lmdb_records_t *recs,
    unsigned int flags);

/* Appends the secrets of the key; ENOMEM if there is no memory. */
int ngx_asana_lmdb_records_get(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secrets_t *secrets);

/*
 * Writes the secrets of the key in the place of the old ones, and brings the
 * indexes in line.  Secrets with the serial 0 are added at the end of theirs.
 */
int ngx_asana_lmdb_records_put(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secrets_t *old, ngx_asana_secrets_t *secrets);

/* Reads an entry of an index by age: its id[ID_LEN] and its key. */
ngx_int_t ngx_asana_lmdb_records_entry(MDB_val *val, u_char **id,
    MDB_val *key);

/*
 * Sets key, whose data has room for MAX_KEY bytes, to the next key with a
 * secret of this id; the first one if it has no length.
 */
int ngx_asana_lmdb_records_next(ngx_asana_lmdb_records_t *recs,
    u_char *id, MDB_val *key);

/* The pages that all that is in the store takes, without free ones. */
int ngx_asana_lmdb_records_pages(ngx_asana_lmdb_records_t *recs,
    size_t *pages);

/* The number of secrets of this age. */
int ngx_asana_lmdb_records_count(ngx_asana_lmdb_records_t *recs,
    ngx_asana_lmdb_age_e age, uint64_t *n);

/* Reads an integer of eight bytes, big-endian. */
uint64_t ngx_asana_lmdb_records_get64(u_char *p);

/* Whether it is a key as the zone has them. */
ngx_uint_t ngx_asana_lmdb_records_key_ok(MDB_val *key);


#endif /* _NGX_ASANA_LMDB_RECORDS_H_INCLUDED_ */
