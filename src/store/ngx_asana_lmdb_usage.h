
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_USAGE_H_INCLUDED_
#define _NGX_ASANA_LMDB_USAGE_H_INCLUDED_


#include "ngx_asana_seal.h"

#include <lmdb.h>


/*
 * How many secrets of the store each encryption key has encrypted, as the
 * database "meta" has it; 0, or an error of LMDB.
 */

/* Reads it; MDB_NOTFOUND, with no secrets, if nobody has counted them yet. */
int ngx_asana_lmdb_usage_get(MDB_txn *txn, MDB_dbi meta,
    ngx_asana_seal_t *seal, ngx_asana_seal_usage_t *usage);

/* Writes it. */
int ngx_asana_lmdb_usage_put(MDB_txn *txn, MDB_dbi meta,
    ngx_asana_seal_usage_t *usage);


#endif /* _NGX_ASANA_LMDB_USAGE_H_INCLUDED_ */
