
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_CRYPT_H_INCLUDED_
#define _NGX_ASANA_LMDB_CRYPT_H_INCLUDED_


#include "ngx_asana_lmdb_env.h"


/*
 * In the thread, what concerns the secrets of a whole store.  They return 0,
 * or an error of LMDB or the system; until the transaction is committed, and
 * after an abort, nothing has changed.
 */

/* Seals all secrets of a store of format 2, which gets the format 3. */
int ngx_asana_lmdb_crypt_convert(ngx_asana_lmdb_records_t *recs);

/* Counts the secrets of each encryption key, if nobody has done it yet. */
int ngx_asana_lmdb_crypt_count(ngx_asana_lmdb_records_t *recs);

/* Carries out a task RESEAL. */
int ngx_asana_lmdb_crypt_reseal(ngx_asana_lmdb_env_t *e,
    ngx_asana_lmdb_records_t *recs, ngx_asana_task_t *task);


#endif /* _NGX_ASANA_LMDB_CRYPT_H_INCLUDED_ */
