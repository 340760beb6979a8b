
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_ROOM_H_INCLUDED_
#define _NGX_ASANA_LMDB_ROOM_H_INCLUDED_


#include "ngx_asana_lmdb_env.h"


/* Whether what is added finds no room: MDB_MAP_FULL. */
int ngx_asana_lmdb_room_full(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, size_t need);

/*
 * Drops what may be dropped, the oldest first, until there is room for "need"
 * pages; "dropped" is the number of secrets.
 */
int ngx_asana_lmdb_room_make(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, size_t need, ngx_uint_t *dropped);

/* Before a handshake: drops a few secrets that are past "pending". */
int ngx_asana_lmdb_room_expire(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs);

/* After one that added a secret: holds the number of pending ones down. */
int ngx_asana_lmdb_room_bound(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs);


#endif /* _NGX_ASANA_LMDB_ROOM_H_INCLUDED_ */
