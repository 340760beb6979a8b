
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_V1_H_INCLUDED_
#define _NGX_ASANA_LMDB_V1_H_INCLUDED_


#include "ngx_asana_lmdb_records.h"


/* As records_get(), in a store of format 1. */
int ngx_asana_lmdb_v1_get(ngx_asana_lmdb_records_t *recs, MDB_val *key,
    ngx_asana_secrets_t *secrets);

/* The number of keys in a store of format 1. */
int ngx_asana_lmdb_v1_keys(ngx_asana_lmdb_records_t *recs, uint64_t *keys);

/*
 * Turns a store of format 1 into one of format 2, or 3 if the zone has
 * encryption keys, all in the transaction.  Until it is committed, and after an
 * abort, nothing has changed.
 */
int ngx_asana_lmdb_v1_convert(ngx_asana_lmdb_records_t *recs);


#endif /* _NGX_ASANA_LMDB_V1_H_INCLUDED_ */
