
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_GID_H_INCLUDED_
#define _NGX_ASANA_LMDB_GID_H_INCLUDED_


#include "ngx_asana_secrets.h"

#include <lmdb.h>


/*
 * The index of secrets by the gid of their webhook: gid -> id[ID_LEN], key.
 * All of these return 0, or an error of LMDB.
 */

/*
 * Opens it, or makes it if flags is MDB_CREATE; if it is not there, the handle
 * becomes 0.
 */
int ngx_asana_lmdb_gid_open(MDB_txn *txn, unsigned int flags, MDB_dbi *dbi);

/*
 * Adds the secret of the key, or removes it, if it has a gid and "other", what
 * it was or becomes (or NULL), has another one.
 */
int ngx_asana_lmdb_gid_index(MDB_txn *txn, MDB_dbi dbi, MDB_val *key,
    ngx_asana_secret_t *s, ngx_asana_secret_t *other, ngx_uint_t add);

/*
 * Sets the entry, an id and a key in a buffer with room for MAX_KEY bytes
 * behind the id, to the next one of the gid; the first one if it has no
 * length.  MDB_NOTFOUND: there is none.
 */
int ngx_asana_lmdb_gid_next(MDB_txn *txn, MDB_dbi dbi, u_char *gid, size_t len,
    MDB_val *entry);


#endif /* _NGX_ASANA_LMDB_GID_H_INCLUDED_ */
