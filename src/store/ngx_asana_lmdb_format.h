
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_FORMAT_H_INCLUDED_
#define _NGX_ASANA_LMDB_FORMAT_H_INCLUDED_


#include "ngx_asana_lmdb_gid.h"
#include "ngx_asana_lmdb_usage.h"
#include "ngx_asana_lmdb_value.h"

#include <lmdb.h>


/* of 3 the secrets are sealed, else it is as 2 */
#define NGX_ASANA_LMDB_FORMAT    2
#define NGX_ASANA_LMDB_SEALED    3

/* meta, hooks, three by age, by id and by gid, and four of format 1 */
#define NGX_ASANA_LMDB_MAX_DBS   12


/* where a secret stands in the order of its like */

typedef enum {
    NGX_ASANA_LMDB_PENDING = 0,
    NGX_ASANA_LMDB_UNPROVEN,        /* confirmed, never verified */
    NGX_ASANA_LMDB_PROVEN,
    NGX_ASANA_LMDB_AGES
} ngx_asana_lmdb_age_e;


/* of LMDB itself: the free pages, and the names of the databases */
#define NGX_ASANA_LMDB_FREE      0
#define NGX_ASANA_LMDB_MAIN      1


/* handles, good for a process as long as its environment is open */

typedef struct {
    ngx_uint_t                 format;      /* 0: nothing is opened, 1, 2 */
    MDB_dbi                    meta;
    MDB_dbi                    hooks;       /* format 1: "secrets" */
    MDB_dbi                    by_age[NGX_ASANA_LMDB_AGES];
    MDB_dbi                    by_id;
    MDB_dbi                    by_gid;      /* 0: it is not there yet */
} ngx_asana_lmdb_dbs_t;


/* the databases within a transaction */

typedef struct {
    MDB_txn                   *txn;
    ngx_asana_lmdb_dbs_t       dbs;
    ngx_asana_seal_t          *seal;        /* of the zone */
    ngx_asana_lmdb_value_t     value;       /* as the store is now */
    time_t                     now;
    uint64_t                   serial;      /* the last one given */
    ngx_uint_t                 dirty;       /* something was written */
    ngx_uint_t                 others;      /* of keys that no task names */
    ngx_uint_t                 converted;   /* from another format */
} ngx_asana_lmdb_records_t;


/*
 * The databases, and which format they have.  These return 0, or an error of
 * LMDB or the system, if nothing else is said.
 */

/* Starts without a transaction. */
void ngx_asana_lmdb_format_init(ngx_asana_lmdb_records_t *recs,
    ngx_asana_seal_t *seal, ngx_str_t *zone);

/*
 * Sets the format that the store has in this transaction, 0 if it is empty.
 * NGX_AGAIN: the databases of the format are to be opened first.
 * MDB_VERSION_MISMATCH: it is a newer one.  NGX_ASANA_LMDB_NO_KEY: it is sealed
 * and the zone has no keys.
 */
int ngx_asana_lmdb_format(ngx_asana_lmdb_records_t *recs,
    uint32_t *format);

/*
 * Opens the databases of the format that the store has, and makes them if it
 * is empty and flags is MDB_CREATE.  The handles are of use to others after a
 * commit.  No other transaction of the process may open any meanwhile.
 */
int ngx_asana_lmdb_format_open(ngx_asana_lmdb_records_t *recs,
    unsigned int flags);

/* Sets the format that the zone is to have: all databases are to be there. */
int ngx_asana_lmdb_format_set(ngx_asana_lmdb_records_t *recs);

/* Opens or makes the databases of the formats 2 and 3. */
int ngx_asana_lmdb_format_open_all(ngx_asana_lmdb_records_t *recs,
    unsigned int flags);


#endif /* _NGX_ASANA_LMDB_FORMAT_H_INCLUDED_ */
