
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_RECORDS_H_INCLUDED_
#define _NGX_ASANA_LMDB_RECORDS_H_INCLUDED_


#include "ngx_asana_lmdb_format.h"


/*
 * What is in the databases.  All of these return 0, or an error of LMDB or the
 * system, if nothing else is said.  MDB_NOTFOUND is an answer.  NGX_DECLINED
 * says that a key or a value is not what this module writes, NGX_ABORT that one
 * of the secrets cannot be opened: see ngx_asana_lmdb_value_decode().
 */

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
 * Sets the entry, an id[ID_LEN] and a key in a buffer with room for MAX_KEY
 * bytes behind the id, to the next one of this id; the first one if it has no
 * length.
 */
int ngx_asana_lmdb_records_next(ngx_asana_lmdb_records_t *recs,
    u_char *id, MDB_val *entry);

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
